"""docs/extending.md as a reader types it: the files are written, the commands run, in each section by itself."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typed import compressor

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
SECTIONS = {section.partition("\n")[0]: section for section in TEXT.split("\n## ")[1:]}
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def run_script(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, name], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("section", SECTIONS)
def test_every_file_of_a_section_runs_as_it_is_shown(section, tmp_path):
    blocks = BLOCK.findall(SECTIONS[section])
    assert blocks
    for language, text in blocks:
        if language == "sh":
            for line in text.splitlines():
                command, *arguments = shlex.split(line)
                assert command == "compressor"
                result = compressor(*arguments, cwd=tmp_path, COMPRESS_STORE="store")
                assert result.returncode == 0, f"{line}\n{result.stdout}\n{result.stderr}"
            continue
        name = re.match(r"# (\S+)\n", text)
        assert name is not None, f"a {language} block of {section!r} does not begin with the name of its file"
        (tmp_path / name[1]).write_text(text, encoding="utf-8")
    for script in sorted(tmp_path.glob("check_*.py")):
        result = run_script(script.name, tmp_path)
        assert result.returncode == 0, result.stderr
