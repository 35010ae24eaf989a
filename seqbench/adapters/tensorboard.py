"""TensorBoard: an event file per run, ``FOLDER/SWEEP/RUN/events.out.tfevents.seqbench``.

A file is a function of the run's record and is replaced whole; files of runs that the sweep has no more are
removed. The hparams tab compares settings with results, "gradient_flow/..." has the distance as its step, and
the histogram shows how the logarithm of the gradient spreads over distances. TensorBoard has no artifacts:
instead of the report, the run "sweep" tells the question and the finding as a text.
"""

from __future__ import annotations

import io
import math
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from seqbench import store
from seqbench.adapters.base import Board, Flow, Logged, tool

EVENT_FILE = "events.out.tfevents.seqbench"
_BUCKETS = 30
_Event = tuple[float, int, Any]  # seconds since 1970, step, summary


class TensorBoard:
    """Writes event files with TensorBoard's own protocol buffers; neither TensorFlow nor torch is needed."""

    def check(self) -> None:
        """See :class:`seqbench.adapters.base.Adapter`."""
        tool("tensorboard.summary.writer.record_writer", "tensorboard")

    def write(self, board: Board, folder: Path) -> int:
        place = folder / board.name
        written = sum(_replaced(place / run.key / EVENT_FILE, _content(_events(run))) for run in board.runs)
        newest = max((run.ended_s for run in board.runs), default=0.0)
        _replaced(place / "sweep" / EVENT_FILE, _content(_told(board, newest)))
        kept = {"sweep", *(run.key for run in board.runs)}
        for stale in sorted(place.glob(f"*/{EVENT_FILE}")):
            if stale.parent.name not in kept:
                store.remove(stale)
        return written

    def look(self, folder: Path) -> str:
        return f"tensorboard --logdir {shlex.quote(str(folder))}"


ADAPTER = TensorBoard()


def _replaced(path: Path, content: bytes) -> bool:
    """Put content in place; False if it is there already."""
    if path.is_file() and path.read_bytes() == content:
        return False
    store.make_folder(path.parent)
    store.write_file(path, content)
    return True


def _content(events: Iterable[_Event]) -> bytes:
    """Events as TensorBoard's records."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    started = True
    for time_s, step, summary in events:
        if started:
            writer.write(Event(wall_time=time_s, file_version="brain.Event:2").SerializeToString())
            started = False
        writer.write(Event(wall_time=time_s, step=step, summary=summary).SerializeToString())
    return buffer.getvalue()


def _events(run: Logged) -> Iterator[_Event]:
    """All of a run, settings first."""
    from tensorboard.plugins.hparams import api_pb2, summary_v2
    from tensorboard.plugins.scalar.summary_v2 import scalar_pb
    from tensorboard.plugins.text.summary_v2 import text_pb

    settings = {**{f"tag.{name}": value for name, value in run.tags.items()}, **run.parameters}
    session = summary_v2.hparams_pb(settings, trial_id=run.key, start_time_secs=run.started_s)
    yield run.started_s, 0, _ordered(session)
    yield (
        run.started_s,
        0,
        text_pb("run", "\n".join([run.name, "", *map("{0[0]}: {0[1]}  ".format, run.tags.items())])),
    )
    for curve in run.curves:
        for step, value, seconds in zip(curve.steps, curve.values, curve.seconds, strict=True):
            yield run.started_s + seconds, step, scalar_pb(curve.name, value)
    for flow in run.flows:
        yield from _flow(flow, run.ended_s)
    for name, value in run.results.items():
        yield run.ended_s, 0, scalar_pb(f"result/{name}", value)
    status = api_pb2.STATUS_SUCCESS if run.ended_well else api_pb2.STATUS_FAILURE
    yield run.ended_s, 0, _session_end(status, run.ended_s)


def _ordered(session: Any) -> Any:
    """Settings in an order that is the same every time, which protocol buffers do not promise."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    plugin = session.value[0].metadata.plugin_data
    plugin.content = HParamsPluginData.FromString(plugin.content).SerializeToString(deterministic=True)
    return session


def _session_end(status: int, time_s: float) -> Any:
    """How a run ended; TensorBoard's own function for it needs TensorFlow."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

    data = HParamsPluginData(session_end_info=SessionEndInfo(status=status, end_time_secs=time_s))
    summary = Summary()
    about = metadata.create_summary_metadata(data)
    summary.value.add(tag=metadata.SESSION_END_INFO_TAG, metadata=about, tensor=metadata.NULL_TENSOR)
    return summary


def _flow(flow: Flow, time_s: float) -> Iterator[_Event]:
    """Gradient over distance, as a curve and as a histogram of its logarithm."""
    from tensorboard.plugins.histogram.summary_v2 import histogram_pb
    from tensorboard.plugins.scalar.summary_v2 import scalar_pb

    for distance, value in zip(flow.distances, flow.median, strict=True):
        yield time_s, distance, scalar_pb(f"gradient_flow/{flow.moment}", value)
    logarithms = [math.log10(value) for value in flow.median if value > 0]
    yield time_s, flow.step, histogram_pb("gradient_flow/log10", logarithms, buckets=_BUCKETS)


def _told(board: Board, time_s: float) -> Iterator[_Event]:
    from tensorboard.plugins.text.summary_v2 import text_pb

    yield time_s, 0, text_pb("question", board.question)
    yield time_s, 0, text_pb("finding", board.finding)
