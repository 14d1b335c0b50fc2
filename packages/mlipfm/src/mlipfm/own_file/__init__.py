"""From one file with labels to a model, its errors and a page: `mlipfm finetune FILE` and `mlipfm train FILE`."""
