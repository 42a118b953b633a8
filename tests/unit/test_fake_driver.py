"""The fake driver speaks the agent protocol as the daemon's own client understands it."""

from __future__ import annotations

import errno
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path

import pytest

from hyperd.agent.client import AgentClient
from hyperd.agent.frames import Method
from hyperd.agent.input import GuestInput
from hyperd.agent.plan import Op, Plan
from hyperd.agent.programs import PROGRAM
from hyperd.errors import AgentError, Conflict, DriverError, NotFound
from hyperd.guest import layout
from hyperd.stream.relay import Relay
from hyperd.vm.driver import DiskSpec, PowerState, VmEvent, VmEventKind, VmSpec
from hyperd.vm.fake import FakeDriver
from hyperd.vm.fake_agent import NO_TOOL

WAIT = 20.0


class Sink:
    """Collects the outputs of one process and acknowledges them at once, or never."""

    def __init__(self, client: AgentClient, base: int, *, acknowledge: bool = True) -> None:
        self.client, self.base, self.acknowledge = client, base, acknowledge
        self.out = {1: b"", 2: b""}
        self.ended: set[int] = set()
        self.changed = threading.Condition()

    def data(self, stream: int, offset: int, data: bytes, *, age: float = 0.0) -> None:
        with self.changed:
            assert offset == len(self.out[stream])
            self.out[stream] += data
            self.changed.notify_all()
        if self.acknowledge:
            self.client.acknowledge(self.base, stream, offset + len(data))

    def eof(self, stream: int, offset: int) -> None:
        with self.changed:
            assert offset == len(self.out[stream])
            self.ended.add(stream)
            self.changed.notify_all()
        if self.acknowledge:
            self.client.acknowledge(self.base, stream, offset + 1)

    def wait(self, *streams: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.ended >= set(streams), WAIT), (self.out, self.ended)

    def wait_bytes(self, stream: int, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.out[stream]) >= count, WAIT), self.out


class Vm:
    """One fake VM with a connected client."""

    def __init__(self, driver: FakeDriver, relay: Relay, rundir: Path) -> None:
        self.driver, self.relay = driver, relay
        self.exits: dict[str, int] = {}
        self.changed = threading.Condition()
        self.spec = VmSpec(vm_id="vm-test", vcpu=1, memory=64, kernel=Path("k"), initrd=Path("i"), rundir=rundir)
        driver.create(self.spec)
        self.client = self.connect(fresh=True)

    def agent_client(self) -> AgentClient:
        return AgentClient(
            self.relay,
            name="vm-test",
            control=self.spec.control_socket,
            stream=self.spec.stream_socket,
            on_exit=self.exited,
            on_lost=lambda: None,
        )

    def connect(self, *, fresh: bool) -> AgentClient:
        client = self.agent_client()
        client.connect(fresh=fresh, timeout=WAIT)
        return client

    def exited(self, ident: str, code: int, *_: object) -> None:
        with self.changed:
            self.exits[ident] = code
            self.changed.notify_all()

    def wait(self, ident: str) -> int:
        with self.changed:
            assert self.changed.wait_for(lambda: ident in self.exits, WAIT), self.exits
            return self.exits[ident]

    def start(
        self, ident: str, argv: list[str], *, tty: bool = False, acknowledge: bool = True
    ) -> tuple[Sink, GuestInput]:
        base = self.client.new_base()
        sink, stdin = Sink(self.client, base, acknowledge=acknowledge), GuestInput()
        plan = Plan().add(Op.PROCESS, ident).add(Op.STREAMS, base, "open").env({"PATH": "/usr/bin:/bin"})
        if tty:
            plan.add(Op.TTY, 24, 80)
        self.in_loop(lambda: self.client.add_streams(base, sink, stdin))
        self.client.start(plan.argv(argv))
        self.in_loop(stdin.open)
        return sink, stdin

    def in_loop(self, work) -> None:
        done = threading.Event()

        def call() -> None:
            try:
                work()
            finally:
                done.set()

        self.relay.loop.call_soon_threadsafe(call)
        assert done.wait(WAIT)


@pytest.fixture
def vm(relay):
    rundir = Path(tempfile.mkdtemp(prefix="hy", dir="/tmp"))
    driver = FakeDriver()
    driver.open()
    vm = Vm(driver, relay, rundir)
    yield vm
    vm.client.close()
    driver.close()
    assert not vm.spec.control_socket.exists()
    assert not vm.spec.stream_socket.exists()
    shutil.rmtree(rundir)


def test_output_and_exit_code(vm):
    sink, _ = vm.start("p", ["sh", "-c", "echo out; echo err >&2; exit 17"])
    sink.wait(1, 2)
    assert (sink.out[1], sink.out[2]) == (b"out\n", b"err\n")
    assert vm.wait("p") == 17


def test_input_is_copied_and_ended(vm):
    sink, stdin = vm.start("p", ["cat"])
    data = bytes(range(256)) * 4096
    vm.in_loop(lambda: (stdin.write(data), stdin.end()))
    sink.wait(1, 2)
    assert sink.out[1] == data
    assert vm.wait("p") == 0


def test_signal_gives_128_plus_number(vm):
    sink, _ = vm.start("p", ["sh", "-c", "echo ready; sleep 1000"])
    sink.wait_bytes(1, 6)
    vm.client.signal("p", signal.SIGKILL)
    assert vm.wait("p") == 137
    sink.wait(1, 2)
    with pytest.raises(AgentError) as caught:
        vm.client.signal("p", signal.SIGKILL)
    assert caught.value.errno == errno.ESRCH


def test_terminal_has_a_size_that_can_change(vm):
    sink, stdin = vm.start("p", ["sh", "-c", "stty size; read line; stty size; echo $line"], tty=True)
    sink.wait_bytes(1, len("24 80\r\n"))
    vm.client.resize("p", 50, 132)
    vm.in_loop(lambda: stdin.write(b"hello\n"))
    sink.wait(1)
    assert sink.out[1].replace(b"\r\n", b"\n").replace(b"hello\n", b"", 1) == b"24 80\n50 132\nhello\n"


def test_unknown_program_is_an_error_with_its_errno(vm):
    with pytest.raises(AgentError) as caught:
        vm.start("p", ["no-such-program"])
    assert caught.value.errno == errno.ENOENT
    assert caught.value.brief.startswith("EXEC")


def test_window_stops_a_program_nobody_listens_to(vm):
    sink, _ = vm.start("p", ["sh", "-c", "yes | head -c 2000000"], acknowledge=False)
    sink.wait_bytes(1, 262_144)
    listed = {process.ident: process for process in vm.client.processes()}
    assert listed["p"].running
    assert len(sink.out[1]) == 262_144
    sink.acknowledge = True
    vm.in_loop(lambda: vm.client.acknowledge(sink.base, 1, 262_144))
    sink.wait(1)
    assert sink.out[1] == b"y\n" * 1_000_000


def test_streams_resume_after_a_reconnection(vm):
    sink, _ = vm.start("p", ["sh", "-c", "echo before; sleep 0.3; echo after; exit 3"], acknowledge=False)
    sink.wait_bytes(1, 7)
    base = sink.base
    vm.client.close()
    vm.client = vm.connect(fresh=False)
    listed = {process.ident: process for process in vm.client.processes()}
    assert listed["p"].stream_base == base
    again = Sink(vm.client, base)
    vm.in_loop(lambda: vm.client.add_streams(base, again, None))
    vm.in_loop(lambda: vm.client.resume_streams(base, {}))
    again.wait(1, 2)
    assert again.out[1] == b"before\nafter\n"


def test_paused_vm_answers_after_resume_only(vm):
    vm.driver.pause("vm-test")
    answers: list[object] = []
    thread = threading.Thread(target=lambda: answers.append(vm.client.request(Method.PING)))
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    assert vm.driver.states() == {"vm-test": PowerState.PAUSED}
    vm.driver.resume("vm-test")
    thread.join(WAIT)
    assert len(answers) == 1


def test_a_paused_vm_is_reached_before_it_goes_on(vm):
    vm.client.request(Method.PING)
    vm.driver.pause("vm-test")
    vm.client.close()
    vm.client = vm.agent_client()
    vm.client.reach()
    vm.client.reach()  # a resume that failed is tried again
    vm.driver.resume("vm-test")
    vm.client.connect(fresh=False, timeout=WAIT)
    vm.client.request(Method.PING)


def upper_plan() -> Plan:
    return layout.make_upper(Plan(), "/w", ["/l1", "/l2"])


def test_an_agent_of_an_earlier_version_gets_steps_that_it_knows(vm):
    agent = vm.driver.vms["vm-test"].agent
    agent.unknown.add(Op.LIKE)
    vm.client.close()
    vm.client = vm.connect(fresh=False)
    for _ in range(2):
        vm.client.run(upper_plan())
    older = [(Op.MKDIR, (b"/w/work", b"700")), (Op.MKDIR, (b"/w/upper", b"755"))]
    assert [[(step.op, step.args) for step in plan] for plan in agent.plans] == [older, older]
    sink, _ = vm.start("p", ["true"])
    sink.wait(1, 2)
    plan = upper_plan().add(Op.PROCESS, "q").add(Op.STREAMS, 100, "null").env({"PATH": "/usr/bin:/bin"})
    vm.client.start(plan.argv(["true"]))
    assert [step.op for step in agent.plans[-1]][:2] == [Op.MKDIR, Op.MKDIR]


def test_an_agent_of_this_version_gets_every_step(vm):
    agent = vm.driver.vms["vm-test"].agent
    vm.client.run(upper_plan())
    vm.client.close()
    vm.client = vm.connect(fresh=False)
    vm.client.run(upper_plan())
    assert [[step.op for step in plan] for plan in agent.plans] == [[Op.MKDIR, Op.LIKE]] * 2


def test_what_an_agent_knows_is_asked_again_when_it_was_too_busy_to_say(vm):
    agent = vm.driver.vms["vm-test"].agent
    agent.unknown.add(Op.LIKE)
    vm.client.close()
    vm.client = vm.connect(fresh=False)
    agent.faults[Method.RUN] = errno.EAGAIN
    with pytest.raises(AgentError) as caught:
        vm.client.run(upper_plan())
    assert caught.value.errno == errno.EAGAIN
    vm.client.run(upper_plan())
    assert [[step.op for step in plan] for plan in agent.plans] == [[Op.MKDIR, Op.MKDIR]]


def test_shutdown_ends_programs_and_is_told(vm):
    events: list[VmEvent] = []
    vm.driver.subscribe(events.append)
    vm.start("p", ["sleep", "1000"])
    vm.client.request(Method.SHUTDOWN, [(0, (5000,))])
    deadline = time.monotonic() + WAIT
    while vm.driver.states() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert vm.driver.states() == {}
    assert [event.kind for event in events] == [VmEventKind.STOPPED]


def test_a_tool_that_no_pretended_guest_has_is_told_apart(vm):
    with pytest.raises(AgentError, match=NO_TOOL) as caught:
        vm.start("p", [PROGRAM, "--pack-path", "/", "etc", "passwd"])
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(AgentError, match="No such file or directory"):
        vm.start("q", ["/no/such/program"])


def test_errors_of_the_driver(vm, tmp_path):
    with pytest.raises(Conflict):
        vm.driver.create(vm.spec)
    with pytest.raises(NotFound):
        vm.driver.pause("vm-none")
    with pytest.raises(DriverError):
        vm.driver.attach_disk("vm-test", DiskSpec(lun=1, path=tmp_path / "none"))
    vm.driver.fail_next = "attach_nic"
    with pytest.raises(DriverError):
        vm.driver.attach_nic("vm-test", None)
    vm.driver.destroy("vm-none")
