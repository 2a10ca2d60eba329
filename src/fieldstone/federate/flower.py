"""The way to sites elsewhere, through Flower: a SuperLink at the coordinator, a SuperNode at each site.

The only module that imports flwr. Flower lets a coordinator send its app to the sites and runs it there. That
would let whoever holds the coordinator read their documents, so here nothing that is sent is ever run: the
SuperNode runs nothing (`--isolation process`), and this process answers its messages with the `ClientApp`
that is installed with Fieldstone. The bundle that Flower wants of a run holds a name and no code.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from httpx import HTTPError, HTTPStatusError, TransportError

from fieldstone.errors import FederationError, MissingExtra
from fieldstone.federate.aggregate import Arrays
from fieldstone.federate.messages import Plan, Reply, Request

try:
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # both would tell its makers that it runs
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    # one object at a time: the SuperLink's database turns away what waits for its lock for long
    os.environ.setdefault("FLWR_PRIVATE_MAX_CONCURRENT_OBJ_PUSHES", "1")
    os.environ.setdefault("FLWR_PRIVATE_MAX_CONCURRENT_OBJ_PULLS", "1")
    from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
    from flwr.cli.build import build_fab_from_files
    from flwr.client.mod import secaggplus_mod
    from flwr.clientapp import ClientApp
    from flwr.common import Code, FitIns, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
    from flwr.common.constant import SubStatus
    from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS
    from flwr.common.serde import context_from_proto, fab_to_proto, run_from_proto
    from flwr.compat.common import recorddict_compat as compat
    from flwr.proto.control_pb2 import RegisterNodeRequest, StartRunRequest
    from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest, PushTaskOutputRequest
    from flwr.server import LegacyContext
    from flwr.server.workflow import SecAggPlusWorkflow
    from flwr.serverapp import Grid
    from flwr.supercore.constant import TaskType
    from flwr.supercore.control import ControlHttpClient
    from flwr.supercore.fab import Fab
    from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
    from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes
    from flwr.supercore.retry import make_simple_http_retry_invoker
    from flwr.supercore.runtime import RuntimeHttpClient
    from flwr.supercore.task_identity import TaskIdentity
    from flwr.superlink.grid import HttpGrid
    from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output
except ImportError as error:
    if find_spec("flwr") is None:
        raise MissingExtra("flwr", "federate") from None
    raise FederationError(
        f"this flwr ({version('flwr')}) is not one that Fieldstone knows: {error}; type: pip install "
        "'fieldstone[federate]'"
    ) from error

POLL = 0.3
"""Seconds between two looks for messages."""

KINDS = {"join": "query.join", "train": "train", "evaluate": "evaluate", "finish": "query.finish"}
"""What is asked -> the type of Flower's message."""

NOT_LET_IN = "Failed to initialize the connection"
PATIENCE = 120.0
"""Seconds after which a refusal is meant: for a minute, a site that was killed counts as still there."""

LINGER = 15.0
"""Seconds in which a refusal has reached the coordinator."""

Answer = Callable[[Request], Reply]
State = Literal["going", "refused", "done"]


@dataclass(frozen=True, slots=True)
class Link:
    """Where the SuperLink listens, and what makes the way safe.

    `authority` is the certificate that vouches for the SuperLink's own; without it nothing is encrypted and
    no site is known by its key. `certificate` and `key` are the SuperLink's, `site_key` a site's private key
    (SSH format, a NIST curve).
    """

    address: str
    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    site_key: Path | None = None

    @property
    def trusted(self) -> bytes | None:
        """The authority's certificate."""
        return self.authority.read_bytes() if self.authority else None


# --- what a message holds


def record_of(request: Request) -> RecordDict:
    """A request as Flower carries it."""
    said = {"plan": request.plan.model_dump_json(), "round": request.round, "asked": request.asked}
    return RecordDict({"weights": _arrays(request.weights), "said": ConfigRecord(said)})


def request_of(record: RecordDict) -> Request:
    """What `record_of` carried. Raises ValueError or KeyError for anything else."""
    said = record.config_records["said"]
    plan = Plan.model_validate_json(str(said["plan"]))
    weights = {name: its.numpy() for name, its in record.array_records["weights"].items()}
    return Request(said["asked"], plan, int(said["round"]), weights)


def answer_record(reply: Reply) -> RecordDict:
    """A reply as Flower carries it."""
    figures = {name: float(value) for name, value in reply.figures.items()}
    return RecordDict(
        {
            "change": _arrays(reply.change),
            "figures": MetricRecord({**figures, "sums": [float(number) for number in reply.sums]}),
            "said": ConfigRecord({"problem": reply.problem, "base": reply.base}),
        }
    )


def reply_of(record: RecordDict) -> Reply:
    """What `answer_record` carried; a reply that is none of ours is one with a problem that is not known."""
    try:
        figures = dict(record.metric_records["figures"])
        sums = figures.pop("sums")
        said = record.config_records["said"]
        change = {name: its.numpy() for name, its in record.array_records["change"].items()}
        numbers = {name: float(value) for name, value in figures.items()}
        return Reply(change, numbers, list(sums), str(said["problem"]), str(said["base"]))
    except (KeyError, ValueError, TypeError):
        return Reply(problem="unreadable")


def _arrays(arrays: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


# --- the coordinator's side


class FlowerSites:
    """The sites behind a SuperLink, by the numbers of their SuperNodes."""

    def __init__(self, grid: Grid, context: Context) -> None:
        self._grid, self._context = grid, context

    def present(self) -> Sequence[str]:
        """The SuperNodes that are connected."""
        return sorted(str(number) for number in self._grid.get_node_ids())

    def ask(self, requests: Mapping[str, Request], seconds: float) -> Mapping[str, Reply]:
        """One message each; what has not come back in time is not waited for."""
        messages = [
            Message(
                record_of(request), int(name), KINDS[request.asked], ttl=seconds, group_id=str(request.round)
            )
            for name, request in requests.items()
        ]
        until, replies = time.monotonic() + seconds, {}
        waiting = {id_ for id_ in self._grid.push_messages(messages) if id_} if messages else set()
        while waiting and time.monotonic() < until:
            try:
                found = list(self._grid.pull_messages(waiting))
            except HTTPError:  # the SuperLink is busy; it is asked again
                found = []
            for message in found:
                waiting.discard(message.metadata.reply_to_message_id)
                if message.has_content():
                    replies[str(message.metadata.src_node_id)] = reply_of(message.content)
            time.sleep(POLL)
        return replies

    def ask_for_sum(self, requests: Mapping[str, Request], seconds: float) -> tuple[Arrays, list[str]] | None:
        """By SecAgg+ (Bell et al. 2020), as Flower has it; None where too many sites fell out."""
        legacy = _Legacy(requests)
        how = next(iter(requests.values())).plan.federate
        workflow = SecAggPlusWorkflow(1.0, 0.5, max_weight=1.0, clipping_range=how.clip, timeout=seconds)
        context = LegacyContext(self._context, strategy=legacy, client_manager=legacy)
        first = next(iter(requests.values()))
        context.state.config_records["config"] = ConfigRecord({"current_round": first.round})
        context.state.array_records["parameters"] = ArrayRecord({})
        workflow(self._grid, context)
        return legacy.found


class _Legacy:
    """What SecAgg+ asks of the strategies and client managers of Flower's older interface, and no more."""

    def __init__(self, requests: Mapping[str, Request]) -> None:
        self.requests, self.found = requests, None

    def num_available(self) -> int:
        return len(self.requests)

    def configure_fit(self, *_: Any, **__: Any) -> list[tuple[Any, FitIns]]:
        return [(_Proxy(int(name)), _instructions(request)) for name, request in self.requests.items()]

    def aggregate_fit(
        self, _round: int, results: list[tuple[Any, FitRes]], _failures: object
    ) -> tuple[None, Mapping[str, float]]:
        if results:
            names = sorted(next(iter(self.requests.values())).weights)
            arrays = parameters_to_ndarrays(results[0][1].parameters)
            mean = {name: array.astype("float32") for name, array in zip(names, arrays, strict=True)}
            self.found = mean, [str(proxy.node_id) for proxy, _ in results]  # type: ignore[assignment]
        return None, {}


@dataclass(frozen=True, slots=True)
class _Proxy:
    node_id: int


def _instructions(request: Request) -> FitIns:
    names = sorted(request.weights)
    said: dict[str, Any] = {
        "plan": request.plan.model_dump_json(), "round": request.round, "names": json.dumps(names),
    }  # fmt: skip
    return FitIns(ndarrays_to_parameters([request.weights[name] for name in names]), said)


@contextmanager
def coordinating(link: Link, folder: Path, site_keys: Sequence[Path] = ()) -> Iterator[FlowerSites]:
    """A SuperLink for as long as the block lasts, and the sites that connect to it.

    With certificates only sites are let in whose public keys stand in `site_keys`. What the SuperLink
    remembers lies in `folder`, so that after a kill sites find it as they left it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    host, _, port = link.address.rpartition(":")
    safe = ["--insecure"]
    if link.authority:
        safe = [
            "--ssl-ca-certfile", str(link.authority), "--ssl-certfile", str(link.certificate),
            "--ssl-keyfile", str(link.key), "--enable-supernode-auth",
        ]  # fmt: skip
    command = [
        "flower-superlink", "--host", host, "--port", port, "--isolation", "process",
        "--database", str(folder / "superlink.db"), *safe,
    ]  # fmt: skip
    with _process(command, folder / "superlink.log") as superlink:
        local = f"127.0.0.1:{port}" if host in ("0.0.0.0", "") else link.address
        _until_listening(local, superlink, folder / "superlink.log")
        ours = RuntimeVersionHttpInterceptor(component_name="flwr-serverapp")
        way = (local, link.authority is None, link.trusted)
        with closing(ControlHttpClient.from_server_address(*way, [ours])) as control:
            for key in site_keys:
                _register(control, key)
            control.StartRun(StartRunRequest(fab=fab_to_proto(_bundle())))
        with closing(RuntimeHttpClient.from_server_address(*way, [ours])) as runtime:
            token = ""
            while not token:
                wanted = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
                token = runtime.AcquireTask(wanted).token
                time.sleep(0 if token else POLL)
        grid = HttpGrid(local, way[1], way[2], token=token)
        beat = HeartbeatSender(_alive(grid._runtime_client))
        beat.start()
        try:
            given = grid._runtime_client.PullTaskInput(PullTaskInputRequest())
            TaskIdentity.task_id, TaskIdentity.run_id = given.task_id, given.run.run_id
            TaskIdentity.node_id = given.context.node_id
            grid.set_run(run_from_proto(given.run))
            yield FlowerSites(grid, context_from_proto(given.context))
            grid._runtime_client.PushTaskOutput(
                PushTaskOutputRequest(context=given.context, sub_status=SubStatus.COMPLETED, details="")
            )
        finally:
            beat.stop()
            grid.close()


def _alive(client: RuntimeHttpClient) -> Callable[[], bool]:
    """Tells the SuperLink or SuperNode that its task goes on; where that fails, it is tried again."""
    tell = make_task_heartbeat_fn_http(client)

    def beat() -> bool:
        try:
            return bool(tell())
        except HTTPError:
            return False

    return beat


def _register(control: ControlHttpClient, key: Path) -> None:
    """Let the site with this public key in; one that is known already stays so."""
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    try:
        public = load_ssh_public_key(key.read_bytes())
        control.RegisterNode(RegisterNodeRequest(public_key=public_key_to_bytes(public)))
    except HTTPStatusError as error:
        if "in use" not in error.response.text:
            raise FederationError(
                f"the SuperLink does not take the key in {key}: {error.response.text}"
            ) from None
    except (OSError, ValueError, AttributeError) as error:
        raise FederationError(
            f"{key} holds no public key of a site ({error}); type: ssh-keygen -t ecdsa -b 384 -f site"
        ) from None


def _bundle() -> Fab:
    """What Flower wants of a run: a name, and nothing that anybody could run."""
    import hashlib

    config = (
        '[project]\nname = "fieldstone"\nversion = "1.0.0"\ndescription = "Nothing to run"\n'
        'license = "Apache-2.0"\ndependencies = []\n[tool.flwr.app]\npublisher = "fieldstone"\n'
        '[tool.flwr.app.components]\nserverapp = "none:none"\nclientapp = "none:none"\n'
        "[tool.flwr.app.config]\n"
    )
    content, _ = build_fab_from_files({"pyproject.toml": config.encode()})
    return Fab(hashlib.sha256(content).hexdigest(), content, {})


# --- a site's side


def client_app(answer: Answer) -> ClientApp:
    """The app of a site: every message goes to `answer`, and what it gives is sent back."""
    app = ClientApp()

    def handle(message: Message, context: Context) -> Message:
        if RECORD_KEY_CONFIGS in message.content.config_records:
            return secaggplus_mod(message, context, masked)
        try:
            request = request_of(message.content)
        except (KeyError, ValueError, TypeError):
            return Message(answer_record(Reply(problem="failed")), reply_to=message)
        if request.asked == "train" and request.plan.federate.secure:
            return Message(answer_record(Reply(problem="privacy")), reply_to=message)  # it would be seen
        return Message(answer_record(answer(request)), reply_to=message)

    def masked(message: Message, _context: Context) -> Message:
        """The change of the weights in the form that SecAgg+ masks."""
        given = compat.recorddict_to_fitins(message.content, keep_input=True)
        names = json.loads(str(given.config["names"]))
        plan = Plan.model_validate_json(str(given.config["plan"]))
        weights = dict(zip(names, parameters_to_ndarrays(given.parameters), strict=True))
        reply = answer(Request("train", plan, int(given.config["round"]), weights))
        if reply.problem:
            raise FederationError(reply.problem)
        masked = ndarrays_to_parameters([reply.change[name] for name in names])
        result = FitRes(Status(Code.OK, ""), masked, 1, {})
        return Message(compat.fitres_to_recorddict(result, keep_input=True), reply_to=message)

    for decorate in (app.query("join"), app.query("finish"), app.train(), app.evaluate()):
        decorate(handle)
    return app


def attend(link: Link, answer: Answer, folder: Path, state: Callable[[], State]) -> None:
    """Answer the coordinator's messages until its SuperLink is gone and `state` says that all is done.

    A SuperNode connects to the SuperLink, and is started again where it ends. Its words go to a file in
    `folder`. A site that was refused stays for as long as the refusal takes to get there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    safe = ["--root-certificates", str(link.authority)] if link.authority else ["--insecure"]
    if link.site_key:
        safe += ["--auth-supernode-private-key", str(link.site_key)]
    command = [
        "flower-supernode", "--superlink", link.address, "--isolation", "process",
        "--host", "127.0.0.1", "--port", str(port), *safe,
    ]  # fmt: skip
    app, since, refused_at = client_app(answer), 0.0, 0.0

    def over() -> bool:
        nonlocal since
        if state() == "going":
            return False
        since = since or time.monotonic()
        return time.monotonic() - since > LINGER if state() == "refused" else not listening(link.address)

    log = folder / "supernode.log"
    while not over():
        begun = log.stat().st_size if log.exists() else 0
        with _process(command, log) as supernode:
            _until_listening(f"127.0.0.1:{port}", supernode, log)
            _work(f"127.0.0.1:{port}", app, over)
        said = _words(log, begun)
        if NOT_LET_IN not in said:
            refused_at = 0.0
        elif time.monotonic() - (refused_at := refused_at or time.monotonic()) > PATIENCE:
            why = said.partition(NOT_LET_IN)[2][:160]
            raise FederationError(
                f"the coordinator at {link.address} does not let this site in: its public key must be named "
                f"there after --site, and --authority must vouch for it ({why})"
            )
        time.sleep(POLL)


def _work(address: str, app: ClientApp, until: Callable[[], bool]) -> None:
    """Take the SuperNode's tasks, one after another, in this process, for as long as it is there."""
    ours = RuntimeVersionHttpInterceptor(component_name="flwr-clientapp")
    with closing(RuntimeHttpClient.from_server_address(address, True, None, [ours])) as runtime:
        while not until():
            wanted = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
            try:
                token = runtime.AcquireTask(wanted).token
            except TransportError:  # the SuperNode has just ended
                return
            if not token:
                time.sleep(POLL)
                continue
            client = RuntimeHttpClient.from_server_address(
                address, True, None, [ours, RuntimeTokenHttpInterceptor(token)],
                retry_invoker=make_simple_http_retry_invoker(),
            )  # fmt: skip
            beat = HeartbeatSender(_alive(client))
            beat.start()
            try:
                message, context, _, _ = pull_task_input(client)
                try:
                    reply = app(message, context)
                except Exception as error:  # of the masking; its words stay here, whatever they are
                    reply = Message(Error(0, type(error).__name__), reply_to=message)
                push_message(client, reply, context)
                push_task_output(client, context, SubStatus.COMPLETED, "")
            except HTTPError:  # the SuperNode or the run has ended meanwhile; whoever comes back asks again
                continue
            finally:
                beat.stop()
                client.close()


# --- processes


@contextmanager
def _process(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program of Flower's, its words in a file; it ends with the block, or with this process."""
    program = shutil.which(command[0], path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        raise MissingExtra("flwr", "federate")
    with log.open("ab") as file:
        child = subprocess.Popen(
            [program, *command[1:]], stdout=file, stderr=file, stdin=subprocess.DEVNULL, preexec_fn=_end_with
        )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _end_with() -> None:
    """Ask Linux to end this process when its parent does, however that ends; elsewhere it is left behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _until_listening(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    while process.poll() is None:
        if listening(address):
            return
        time.sleep(0.1)
    raise FederationError(f"Flower's {log.stem} ended: …{_words(log)[-400:]}; see {log}")


def _words(log: Path, begun: int = 0) -> str:
    """What a log says from this byte on, on one line, without colours."""
    said = log.read_bytes()[begun:].decode("utf-8", errors="replace")
    return " ".join(re.sub("\x1b\\[[0-9;]*m", "", said).split())


def listening(address: str) -> bool:
    """Whether somebody answers at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
