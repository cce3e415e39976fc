"""Images are named by digest: a tag may mean another image tomorrow."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.files import DEPLOY, ROOT, read_yaml

OURS = "imagegate"
"""Built here, so it has a digest only after the build."""
PINNED = re.compile(r"[a-z][a-z0-9./-]*:v?\d+(\.\d+)+[a-z-]*@sha256:[0-9a-f]{64}")
DIGEST = re.compile(r"@sha256:[0-9a-f]{64}")
FILES = ("deploy/Dockerfile", "docker-compose.yml", "deploy/kubernetes/redis/redis.yaml")
DOCKER = """#!/bin/sh
[ "$1 $2 $3 $5" = "buildx imagetools inspect --format" ] || exit 9
case "$4" in *@*) exit 9;; python:*) echo "$NEWEST";; *) echo sha256:%s;; esac
"""


def images() -> Iterator[str]:
    """Every image that the files of deploy/ start or build upon."""
    dockerfile = (DEPLOY / "Dockerfile").read_text("utf-8")
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)", dockerfile, re.MULTILINE))
    stages = re.findall(r"^FROM \S+ AS (\w+)", dockerfile, re.MULTILINE)
    for source in re.findall(r"(?:^FROM |--from=)(\S+)", dockerfile, re.MULTILINE):
        name = re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], source)
        if name not in stages:
            yield name
    for service in read_yaml(ROOT / "docker-compose.yml")["services"].values():
        yield service["image"]
    for manifest in (DEPLOY / "kubernetes").rglob("*.yaml"):
        yield from re.findall(r"^[\s-]*image: *(\S+)", manifest.read_text("utf-8"), re.MULTILINE)


def test_every_image_but_ours_is_pinned_by_digest() -> None:
    others = {image for image in images() if re.split("[:@]", image)[0] != OURS}
    assert {"python", "redis", "prom/prometheus", "grafana/grafana"} == {image.split(":")[0] for image in others}
    assert [] == [image for image in others if not PINNED.fullmatch(image)]


@pytest.mark.parametrize("newest", ["sha256:" + "a" * 64, "", "sha256:none"])
def test_make_digests_pins_what_every_tag_means_today_or_changes_nothing(tmp_path: Path, newest: str) -> None:
    """With another `docker`, as a registry is asked by the real one."""
    docker = tmp_path / "docker"
    docker.write_text(DOCKER % ("b" * 64))
    docker.chmod(0o755)
    before = [(ROOT / name).read_text("utf-8") for name in FILES]
    copies = [tmp_path / Path(name).name for name in FILES]
    for copy, text in zip(copies, before, strict=True):
        copy.write_text(text)
    environ = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "NEWEST": newest}
    command = [ROOT / ".ci/digests", *copies]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environ)
    after = [copy.read_text("utf-8") for copy in copies]
    if len(newest) < 64:
        assert (1, before) == (done.returncode, after)
        return
    assert done.returncode == 0, done.stderr
    pinned = [re.findall(r"@sha256:(\w+)", text) for text in after]
    assert [["a" * 64], ["b" * 64] * 3, ["b" * 64]] == pinned
    assert [DIGEST.sub("", text) for text in before] == [DIGEST.sub("", text) for text in after]


def test_the_makefile_names_every_file_that_pins_an_image() -> None:
    found = {
        str(path.relative_to(ROOT))
        for path in (*DEPLOY.rglob("*"), ROOT / "docker-compose.yml")
        if path.is_file() and path.suffix not in {".lock", ".png"} and "@sha256:" in path.read_text("utf-8")
    }
    assert set(FILES) == found
    assert f"\t@.ci/digests {' '.join(FILES)}\n" in (ROOT / "Makefile").read_text("utf-8")
