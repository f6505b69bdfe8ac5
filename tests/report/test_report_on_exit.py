"""The page of a run is written when it ends, and a failure there does not undo the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt1.report import sections as report


def test_a_page_that_cannot_be_written_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    def fail(run: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "write_report", fail)
    with report.report_on_exit(tmp_path):
        pass
    err = capfd.readouterr().err
    assert "could not be written" in err
    assert "--resume" in err
    with pytest.raises(ValueError, match="own"), report.report_on_exit(tmp_path):
        raise ValueError("own")
