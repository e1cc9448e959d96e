"""What goes into a package of a folder, how it is named, and when it is too large."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from sparkray import packaging
from sparkray.ignoring import Rules
from sparkray.packaging import PackageTooLarge, find_files, pack, signature


def fill(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def names(folder: Path, *excludes: str) -> list[str]:
    return [found.name for found in find_files(str(folder), excludes)]


@pytest.mark.parametrize(
    ("pattern", "path", "is_folder", "ignored"),
    [
        ("*.log", "a.log", False, True),
        ("*.log", "deep/er/a.log", False, True),
        ("*.log", "a.logs", False, None),
        ("/a.txt", "a.txt", False, True),
        ("/a.txt", "b/a.txt", False, None),
        ("build/", "build", True, True),
        ("build/", "build", False, None),
        ("build/", "x/build", True, True),
        ("doc/*.md", "doc/a.md", False, True),
        ("doc/*.md", "x/doc/a.md", False, None),
        ("**/cache", "a/b/cache", True, True),
        ("**/cache", "cache", True, True),
        ("a/**/b", "a/b", False, True),
        ("a/**/b", "a/x/y/b", False, True),
        ("a/**", "a/x", False, True),
        ("a/**", "a", True, None),
        ("?.py", "a.py", False, True),
        ("?.py", "ab.py", False, None),
        ("[ab].py", "b.py", False, True),
        ("[!ab].py", "b.py", False, None),
        ("[!ab].py", "c.py", False, True),
        (r"\#x", "#x", False, True),
        ("!keep.log", "keep.log", False, False),
        ("# a comment", "# a comment", False, None),
        ("", "", False, None),
        ("trailing.txt   ", "trailing.txt", False, True),
        ("a.b", "axb", False, None),
    ],
)
def test_patterns_mean_what_they_mean_to_git(pattern: str, path: str, is_folder: bool, ignored: bool | None) -> None:
    assert Rules([pattern]).says(path, is_folder) is ignored


def test_the_last_pattern_that_matches_counts() -> None:
    rules = Rules(["*.log", "!keep.log"])
    assert rules.says("x.log", False) is True
    assert rules.says("keep.log", False) is False


def test_what_git_would_ignore_and_the_usual_folders_are_left_out(tmp_path: Path) -> None:
    fill(
        tmp_path,
        main_dot_py="",
        data_dot_log="",
        pkg__mod_dot_py="",
        pkg__x_dot_tmp="",
        venv__bin__python="",
        other__x_dot_tmp="",
    )
    for name in ("pkg/__pycache__", ".git"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
    (tmp_path / ".gitignore").write_text("*.log\n")
    (tmp_path / "pkg" / ".gitignore").write_text("*.tmp\n")

    assert names(tmp_path) == [".gitignore", "main.py", "other/x.tmp", "pkg/.gitignore", "pkg/mod.py"]
    assert names(tmp_path, "pkg", "/other") == [".gitignore", "main.py"]


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not there to compare with")
def test_git_itself_agrees(tmp_path: Path) -> None:
    fill(tmp_path, a_dot_py="", a_dot_log="", keep_dot_log="", build__x="", sub__build__y="", sub__deep__z_dot_txt="")
    fill(tmp_path, sub__deep__b_dot_log="", doc__a_dot_md="", sub__doc__a_dot_md="", cache__q="")
    (tmp_path / ".gitignore").write_text("*.log\n!keep.log\n/build/\ndoc/*.md\n**/deep/*.txt\ncache\n")
    (tmp_path / "sub" / ".gitignore").write_text("!b.log\nbuild\n")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    ask = ["git", "-C", str(tmp_path), "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(ask, check=True, capture_output=True, text=True)
    assert names(tmp_path) == sorted(listed.stdout.split())


def test_equal_folders_make_equal_packages_and_a_change_makes_another(tmp_path: Path) -> None:
    one, two = fill(tmp_path / "one", a="1", b="2"), fill(tmp_path / "two", a="1", b="2")
    os.utime(two / "a", (0, 0))
    hashes = []
    for folder in (one, two):
        digest, file, size = pack("it", find_files(str(folder), ()))
        with file, zipfile.ZipFile(file) as archive:
            assert archive.namelist() == ["a", "b"]
            assert size > 0
        hashes.append(digest)
    assert hashes[0] == hashes[1]
    before = signature(find_files(str(one), ()))
    (one / "b").write_text("3+")
    after = find_files(str(one), ())
    assert signature(after) != before
    digest, file, _ = pack("it", after)
    file.close()
    assert digest != hashes[0]


def test_a_package_that_is_too_large_names_its_largest_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaging, "PACKAGE_LIMIT_BYTES", 1 << 20)
    fill(tmp_path, small="x")
    (tmp_path / "huge.bin").write_bytes(os.urandom(3 << 20))
    with pytest.raises(PackageTooLarge, match=r"more than 1 MiB(.|\n)*3\.0 MiB  huge\.bin(.|\n)*excludes"):
        pack("working_dir", find_files(str(tmp_path), ()))


def test_links_are_followed_but_not_in_a_circle(tmp_path: Path) -> None:
    fill(tmp_path / "root", a="")
    fill(tmp_path / "elsewhere", b="")
    (tmp_path / "root" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "circle").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "nowhere").symlink_to(tmp_path / "nothing")
    assert names(tmp_path / "root") == ["a", "link/b"]
