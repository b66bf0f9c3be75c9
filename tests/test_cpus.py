from pathlib import Path

import pytest

from eyespot import cpus as module
from eyespot.cpus import Plan


def cgroup(tmp_path: Path, line: str, files: dict[str, str]) -> int:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(line)
    for name, content in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return module.available_cpus(tmp_path / "proc", tmp_path / "cgroup")


@pytest.mark.parametrize(
    ("line", "files", "cpus"),
    [
        ("0::/\n", {"cpu.max": "max 100000"}, 16),
        ("0::/\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000"}, 2),
        ("0::/\n", {"cpu.max": "10000 100000"}, 1),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),
        ("0::/host/path/that/is/not/here\n", {"cpu.max": "400000 100000"}, 4),
        ("4:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "250000", "cpu/x/cpu.cfs_period_us": "100000"}, 3),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 16),
        ("4:memory:/\n0::/\n", {"cpu.max": "garbage"}, 16),
        ("", {}, 16),
        ("0::/\n", {"cpu.max": "9900000 100000"}, 16),
    ],
)
def test_cpus_are_the_affinity_cut_to_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, files: dict[str, str], cpus: int
) -> None:
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(module.os, "cpu_count", lambda: 99)
    assert cgroup(tmp_path, line, files) == cpus


@pytest.mark.parametrize(
    ("given", "cpus", "planned"),
    [
        ((None, None), 1, Plan(2, 1, 1, 1)),
        ((None, None), 2, Plan(3, 2, 1, 2)),
        ((None, None), 4, Plan(5, 4, 1, 4)),
        ((None, None), 8, Plan(9, 8, 1, 8)),
        ((None, None), 16, Plan(17, 16, 1, 16)),
        ((None, None), 64, Plan(65, 64, 1, 16)),
        ((None, 4), 8, Plan(3, 2, 4, 8)),
        ((2, None), 8, Plan(2, 2, 4, 8)),
        ((1, None), 64, Plan(1, 1, 64, 64)),
        ((3, None), 2, Plan(3, 3, 1, 2)),
        ((3, 5), 2, Plan(3, 3, 5, 5)),
        ((1, 1), 4, Plan(1, 1, 1, 1)),
        ((None, 32), 64, Plan(3, 2, 32, 32)),
    ],
)
def test_the_plan_uses_the_cpus_and_no_more(given: tuple[int | None, int | None], cpus: int, planned: Plan) -> None:
    assert module.plan(*given, cpus=cpus) == planned
