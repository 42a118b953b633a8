"""What is kept of the database's content is never older than the database."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
from sqlalchemy import delete, select, update

from hyperd.api.lists import ListBodies
from hyperd.db.memo import Memo
from hyperd.db.models import ContainerRow, ExecRow, PodRow


def pod(name="p", state="pending"):
    return PodRow(id=name, state=state, spec={}, created_at=0.0, outcome="", reason="")


def container(pod_id="p"):
    return ContainerRow(
        id="c",
        name="c",
        pod_id=pod_id,
        position=0,
        state="created",
        spec={},
        image_id="",
        image_name="",
        created_at=0.0,
    )


def states(database):
    with database.reading() as session:
        return dict(session.execute(select(PodRow.id, PodRow.state)).all())


@pytest.mark.parametrize(
    "write",
    [
        lambda session: session.add(pod("q")),
        lambda session: session.delete(session.get(PodRow, "p")),
        lambda session: setattr(session.get(PodRow, "p"), "state", "running"),
        lambda session: session.execute(update(PodRow).values(state="running")),
        lambda session: session.execute(delete(PodRow)),
        lambda session: session.merge(pod("p", "running")),
    ],
    ids=["insert", "delete", "change", "update statement", "delete statement", "merge"],
)
def test_every_kind_of_write_makes_a_memo_compute_again(database, write):
    with database.session() as session:
        session.add(pod())
    memo = Memo(database, "pods")
    assert memo.get("all", lambda: states(database)) == {"p": "pending"}
    with database.session() as session:
        write(session)
    assert memo.get("all", lambda: states(database)) == states(database) != {"p": "pending"}


def test_a_value_is_kept_while_only_other_tables_change(database):
    with database.session() as session:
        session.add(pod())
        session.flush()
        session.add(container())
    memo = Memo(database, "pods", "containers")
    made = []
    memo.get("x", lambda: made.append(1))
    with database.session() as session:
        session.add(ExecRow(id="e", container_id="c", spec={}, state="created", exit_code=None, created_at=0.0))
    memo.get("x", lambda: made.append(2))
    assert made == [1]


def test_rows_that_go_with_others_count_as_changed(database):
    with database.session() as session:
        session.add(pod())
        session.flush()
        session.add(container())
    before = database.version("containers"), database.version("execs")
    with database.session() as session:
        session.execute(delete(PodRow))
    assert database.version("containers") != before[0]
    assert database.version("execs") != before[1]
    with database.reading() as session:
        assert session.get(ContainerRow, "c") is None


def test_a_write_counts_when_it_is_committed_and_not_before(database):
    memo = Memo(database, "pods")
    with database.session() as session:
        session.add(pod())
        session.flush()
        seen = []
        reader = threading.Thread(target=lambda: seen.append(memo.get("all", lambda: states(database))))
        reader.start()
        reader.join()
    assert seen == [{}]
    assert memo.get("all", lambda: states(database)) == {"p": "pending"}


def test_a_value_that_was_computed_while_its_table_changed_is_not_given_again(database):
    memo = Memo(database, "pods")

    def slow():
        found = states(database)
        with database.session() as session:  # somebody else, just then
            session.add(pod())
        return found

    assert memo.get("all", slow) == {}
    assert memo.get("all", lambda: states(database)) == {"p": "pending"}


def test_a_memo_keeps_no_more_than_its_size(database):
    memo = Memo(database, "pods", size=3)
    for number in range(10):
        assert memo.get(number, lambda number=number: number) == number
    assert len(memo._kept) <= 3


def test_writers_and_readers_in_many_threads_see_no_finished_write_missing(database):
    with database.session() as session:
        session.add_all([pod(str(number), "0") for number in range(4)])
    memo = Memo(database, "pods")
    wrong = []

    def work(name):
        for turn in range(1, 60):
            with database.session() as session:
                session.get(PodRow, name).state = str(turn)
            if memo.get("all", lambda: states(database))[name] != str(turn):
                wrong.append((name, turn))

    threads = [threading.Thread(target=work, args=(str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def vm(ident, *, pod_id="", state="idle", hidden=False):
    agent = SimpleNamespace(silent=False)
    return SimpleNamespace(id=ident, pod_id=pod_id, state=state, hidden=hidden, agent=agent)


def engine_of(database, vms):
    def vm_views(**_):
        return [
            SimpleNamespace(id=one.id, pod_id=one.pod_id, status="silent" if one.agent.silent else one.state)
            for one in vms
        ]

    def pod_views(**_):
        return [SimpleNamespace(id=name, vm_id="", state=state, outcome="") for name, state in states(database).items()]

    return SimpleNamespace(
        database=database,
        vms=SimpleNamespace(all=lambda: list(vms), views=vm_views),
        pods=SimpleNamespace(summaries=pod_views),
    )


def test_a_list_shows_what_changes_in_memory_only(database):
    vms = [vm("vm-a")]
    lists = ListBodies(engine_of(database, vms))

    def shown():
        return lists.get("vm", pod_id="", vm_id="")

    assert shown() == b'{"item":"vm","vmData":["vm-a::idle"]}\n'
    assert shown() is shown()
    vms[0].state = "paused"
    assert shown() == b'{"item":"vm","vmData":["vm-a::paused"]}\n'
    vms[0].agent.silent = True
    assert shown() == b'{"item":"vm","vmData":["vm-a::silent"]}\n'
    vms[0].agent.silent = False
    vms[0].pod_id = "p"
    assert shown() == b'{"item":"vm","vmData":["vm-a:p:paused"]}\n'
    vms.clear()
    assert shown() == b'{"item":"vm","vmData":[]}\n'


def test_a_list_of_pods_shows_every_finished_write_and_is_kept_between(database):
    lists = ListBodies(engine_of(database, []))

    def shown():
        return lists.get("pod", pod_id="", vm_id="")

    for number in range(5):
        with database.session() as session:
            session.add(pod(f"p{number}"))
        assert f"p{number}:p{number}::pending".encode() in shown()
        assert shown() is shown()


def test_lists_keep_few_questions(database):
    lists = ListBodies(engine_of(database, []))
    for number in range(500):
        lists.get("pod", pod_id=f"p{number}", vm_id="")
    assert len(lists._kept) <= 64
