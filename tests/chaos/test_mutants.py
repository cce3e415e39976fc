import shutil
from pathlib import Path

import pytest

from chaos.mutants import MUTANTS, PACKAGE, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_text_that_a_mutant_replaces_is_still_there(mutant: Mutant, tmp_path: Path) -> None:
    copy = tmp_path / mutant.file
    copy.parent.mkdir(parents=True)
    shutil.copy(PACKAGE / mutant.file, copy)
    mutant.apply(tmp_path)
    assert mutant.after in copy.read_text("utf-8")
    assert mutant.before not in copy.read_text("utf-8")


def test_a_text_that_is_gone_is_an_error() -> None:
    gone = Mutant("gone", "metering/admission.py", "no such text", "")
    with pytest.raises(LookupError, match=r"gone: metering/admission.py holds 'no such text' 0 times"):
        gone.apply(PACKAGE)
