"""Errors: one text everywhere, codes that are never shared, and the same error on both sides of a process border."""

import pickle
import re

import pytest
from mlipfm_interfaces import errors
from mlipfm_interfaces.errors import CapacityExceeded, MlipfmError, UnreadableFileError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MlipfmError)]


def test_codes_are_kebab_case_and_belong_to_one_error_each():
    codes = [kind.code for kind in KINDS]
    assert len(codes) == len(set(codes))
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in codes)


def test_the_text_says_where_what_and_what_to_do():
    error = UnreadableFileError("expected 3 columns", where="a.xyz:7", hint="repair the line")
    assert str(error) == "a.xyz:7: expected 3 columns; repair the line"
    assert error.as_dict() == {
        "code": "unreadable-file",
        "what": "expected 3 columns",
        "where": "a.xyz:7",
        "hint": "repair the line",
        "mend": "repair the line",
    }


def test_the_old_name_of_the_hint_is_taken_and_read_with_a_warning():
    with pytest.warns(DeprecationWarning, match="use `hint`"):
        error = MlipfmError("what", mend="repair it")
    assert error.hint == "repair it"
    with pytest.warns(DeprecationWarning, match="use `hint`"):
        assert error.mend == "repair it"


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_comes_back_from_another_process_as_it_was(kind):
    more = {"needed": 12} if kind is CapacityExceeded else {}
    before = kind("what", where="where", hint="hint", **more)
    after = pickle.loads(pickle.dumps(before))
    assert type(after) is kind
    assert (str(after), after.as_dict(), after.__dict__) == (str(before), before.as_dict(), before.__dict__)
