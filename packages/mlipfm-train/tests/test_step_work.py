"""The work of a step is counted as a count by hand says."""

import torch
from mlipfm_train.step_work import count_work
from torch import nn


def test_matrix_products_of_forward_backward_and_double_backward_are_counted():
    """x W^T has 2 n m k operations; so has each gradient. A loss of the gradient by x needs W once more, and its own gradient twice."""
    n, m, k = 7, 5, 3
    layer = nn.Linear(m, k, bias=False)
    x = torch.randn(n, m)
    one = 2 * n * m * k
    assert count_work(layer, lambda: layer(x).sum()).flops == 2 * one  # the product and the gradient of W
    leaf = torch.randn(n, m, requires_grad=True)
    assert count_work(layer, lambda: layer(leaf).sum()).flops == 3 * one

    def of_the_gradient() -> torch.Tensor:
        (slope,) = torch.autograd.grad((layer(leaf) ** 2).sum(), [leaf], create_graph=True)
        return slope.square().sum()

    assert count_work(layer, of_the_gradient).flops > 4 * one
    assert all(p.grad is None for p in layer.parameters())


def test_memory_counts_weights_gradients_and_moments_and_what_derivatives_keep():
    layer = nn.Linear(100, 10, bias=False)
    x = torch.randn(50, 100)
    work = count_work(layer, lambda: layer(x).square().sum())
    assert work.weights == 4 * 4 * 1000
    assert work.kept >= 4 * (50 * 100 + 50 * 10)
