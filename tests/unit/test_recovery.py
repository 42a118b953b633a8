"""What recovery makes of directories that no row explains."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

from hyperd.db.models import CopyDueRow
from hyperd.db.session import Database
from hyperd.pod.records import PodRecords
from hyperd.pod.recovery import Recovery
from hyperd.spec.model import PodSpec


def test_what_is_left_of_a_pod_that_was_just_removed_is_not_put_aside(tmp_path: Path) -> None:
    for name in ("removed", "stranger", "pod"):
        (tmp_path / "pods" / name).mkdir(parents=True)
        (tmp_path / "pods" / name / "pod.json").write_text("{}")
    with closing(Database(tmp_path / "db")) as database:
        database.create_all()
        records = PodRecords(database)
        for name in ("removed", "pod"):
            records.insert(PodSpec(id=name))
        records.delete("removed")
        with database.session() as session:
            session.query(CopyDueRow).filter_by(id="pod").delete()
        assert records.removed() == {"removed"}
        recovery = Recovery(
            root=tmp_path,
            pods=Mock(),
            records=records,
            containers=Mock(),
            execs=Mock(),
            network=Mock(),
            vms=Mock(),
        )
        recovery._strangers({"pod"})
    assert {path.name for path in (tmp_path / "pods").iterdir()} == {"pod"}
    assert [path.name.rpartition("-")[2] for path in (tmp_path / "aside").iterdir()] == ["stranger"]
