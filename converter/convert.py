"""The main job: load, plan, rewrite, save, validate. Each step is a module of its own."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from converter import accuracy, growth, model_file, output_files, provenance
from converter.choice import FAST, Chooser, cheapest
from converter.conv3d import Conv3D, Unread, find_conv3d
from converter.errors import CannotCompareError, UserError
from converter.kernels import GENERIC, Target
from converter.model_file import ExternalData, Model
from converter.opset import OpsetChange
from converter.output_files import PendingOutput
from converter.placement import Placement, place
from converter.plan import AUTO, Plan
from converter.planning import Wishes, decide
from converter.precision import (
    CONV,
    FP32,
    Precision,
    PrecisionReport,
    Scope,
    check_convolutions,
    lower_precision,
    wanted_opset,
)
from converter.result import ConvertResult, GraphSummary, summarize
from converter.rewriting import carry_out, lay_out
from converter.session import SessionSettings
from converter.surgeon import (
    Surgery,
    close_model,
    inline_functions_with_conv,
    open_model,
    unlist_constant_inputs,
)
from converter.target import replace_lacking, suit
from converter.widening import Widened, widen

if TYPE_CHECKING:
    from converter.compare.validate import Validation

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """How to convert. See `converter.convert` and `converter.planning.Wishes` for the fields."""

    strategy: str = AUTO
    accuracy: str = FAST
    choose: Chooser | None = None
    layout: bool = True
    pins: Mapping[str, str] = field(default_factory=dict)
    opset: int | None = None
    target: Target = GENERIC
    precision: Precision = FP32
    precision_scope: Scope = CONV
    external_data: ExternalData = "auto"
    validate: bool = True
    min_psnr: float | None = None
    memory_growth: float = growth.DEFAULT
    tiles_like: Plan | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    seed: int = 0
    provider: str = "auto"
    provider_options: Mapping[str, str] = field(default_factory=dict)
    strict_provider: bool = False
    overwrite: bool = False
    strict: bool = False
    keep_invalid: bool = False
    dry_run: bool = False

    @property
    def session_settings(self) -> SessionSettings:
        """For every session that is made on the way."""
        return SessionSettings(self.provider_options, self.strict_provider)

    @property
    def conv3d_alone(self) -> bool:
        """Whether a graph without any Conv3D shall stay byte for byte as it is."""
        return self.target == GENERIC and self.precision == FP32


def run_once(
    source: Path,
    output: Path | None,
    options: Options,
    notify: Notify,
    error_budget: float | None = None,
) -> ConvertResult:
    """Convert `source` into `output`, by the first plan that comes.

    Args:
        source: The graph.
        output: Where the converted one goes.
        options: How to convert.
        notify: Hears the name of each phase as it begins.
        error_budget: What the plan is held to, see `converter.accuracy.within`; None for no limit.

    Raises:
        UserError: bad input or usage; nothing was written.
    """
    clock = _Clock(notify)
    if output is not None and not options.dry_run:
        output_files.refuse_to_replace(output, options.overwrite)
    with clock.phase("load"):
        model = model_file.load(source)
        digest = model_file.digest(model)
    with clock.phase("plan"):
        prepared = _prepare(model, options, error_budget)
    notes = [f"left as it was: {e.node}: {e.reason}" for e in prepared.plan.refusals]
    if prepared.widened.reasons:
        notes.append(prepared.widened.sentence())
    kept = growth.note(prepared.plan, options.memory_growth)
    if kept:
        notes.append(kept)
    if prepared.change.blockers:
        if options.opset is not None:
            raise UserError(
                f"{source} cannot go to opset {options.opset}: {prepared.change.blockers[0]}."
            )
        notes.append(prepared.change.sentence())
    if options.strict and prepared.plan.refusals:
        first = prepared.plan.refusals[0]
        raise UserError(f"--strict: {first.node} would stay a Conv3D: {first.reason}.")
    job = _Job(source, output, options, clock, prepared, tuple(notes))
    if options.dry_run or output is None:
        return job.result(written=False, after=None)
    if not prepared.found and options.conv3d_alone:
        return _write_unchanged(job, model)
    with clock.phase("rewrite"):
        carry_out(prepared.plan, prepared.found, prepared.surgery, model)
        moved = lay_out(model) if options.layout and prepared.found else {}
        replaced = replace_lacking(model.proto, model.weights, options.target)
        provenance.write(
            model.proto,
            digest,
            _told(options),
            prepared.plan,
            prepared.precision,
            prepared.renamed,
            moved,
        )
        left = _conv3d_left(model)
    if replaced:
        job = replace(job, notes=(*job.notes, replaced))
    return _write(job, model, left)


@dataclass
class _Prepared:
    """A model that is open, read and planned, but not changed."""

    surgery: Surgery
    found: list[Conv3D | Unread]
    plan: Plan
    change: OpsetChange
    precision: PrecisionReport | None
    widened: Widened
    before: GraphSummary

    @property
    def renamed(self) -> Mapping[str, str]:
        """Name of a lowered or widened node's output -> the name that it had."""
        lowered = {} if self.precision is None else self.precision.renamed
        return {**self.widened.renamed, **lowered}


def _prepare(model: Model, options: Options, error_budget: float | None) -> _Prepared:
    untouched = type(model.proto)()
    untouched.CopyFrom(model.proto)
    unlist_constant_inputs(model.proto)
    inline_functions_with_conv(model.proto)
    widened = _widen(model, options)
    opset = options.opset or wanted_opset(options.precision, options.target)
    change = suit(model.proto, options.target, opset)
    precision = _lower(model, options, widened)
    surgery = open_model(model.proto)
    found = find_conv3d(list(surgery.graphs()), model.weights, surgery.opset)
    if not found and options.conv3d_alone:
        model.proto.CopyFrom(untouched)
        change = OpsetChange(surgery.opset, surgery.opset)
    choose = options.choose or partial(cheapest, target=options.target, accuracy=options.accuracy)
    wishes = Wishes(
        choose,
        options.strategy,
        options.pins,
        options.target,
        error_budget,
        options.memory_growth,
        options.tiles_like,
    )
    plan = decide(found, untouched, wishes)
    file_bytes = sum(p.stat().st_size for p in (model.path, *model.external_files))
    before = summarize(untouched, len(found), file_bytes)
    return _Prepared(surgery, found, plan, change, precision, widened, before)


def _widen(model: Model, options: Options) -> Widened:
    """Before the opset is chosen: what is narrow no more may go to an older one."""
    surgery = open_model(model.proto)
    if options.precision != FP32 and options.precision_scope == CONV:
        check_convolutions(surgery, options.precision, model.path)
    widened = widen(surgery, options.target, options.opset)
    close_model(surgery)
    return widened


def _lower(model: Model, options: Options, widened: Widened) -> PrecisionReport | None:
    """Before the rewrites: whatever they make of a Conv3D, its operands are rounded once."""
    if options.precision == FP32:
        return None
    surgery = open_model(model.proto)
    report = lower_precision(
        surgery,
        model.weights,
        options.precision,
        options.precision_scope,
        options.target,
        leave=widened.renamed,
    )
    close_model(surgery)
    return report


def _conv3d_left(model: Model) -> int:
    """Count anew, on the graph that will be written."""
    surgery = open_model(model.proto)
    return len(find_conv3d(list(surgery.graphs()), model.weights, surgery.opset))


def _told(options: Options) -> dict[str, object]:
    """The options that a file made by them tells of."""
    return {
        "strategy": options.strategy,
        "pins": dict(options.pins),
        "opset": options.opset,
        "layout": options.layout,
        "target": options.target,
        "precision": options.precision,
        "precision_scope": options.precision_scope,
    }


@dataclass
class _Job:
    """The parts of a result that are known before anything is written."""

    source: Path
    output: Path | None
    options: Options
    clock: _Clock
    prepared: _Prepared
    notes: tuple[str, ...]

    def result(
        self,
        *,
        written: bool,
        after: GraphSummary | None,
        placement: Placement | None = None,
        validation: Validation | None = None,
        notes: tuple[str, ...] = (),
    ) -> ConvertResult:
        return ConvertResult(
            input=self.source,
            output=self.output,
            written=written,
            plan=self.prepared.plan,
            opset=self.prepared.change,
            precision=self.prepared.precision,
            before=self.prepared.before,
            after=after,
            seconds=self.clock.seconds,
            validation=validation,
            notes=(*self.notes, *notes),
            placement=placement,
            error=accuracy.plan_error(self.prepared.found, self.prepared.plan),
        )


def _write_unchanged(job: _Job, model: Model) -> ConvertResult:
    assert job.output is not None
    with job.clock.phase("save"), output_files.pending_output(job.output, job.source) as pending:
        if model.external_files:
            pending.write(model, external=True)
        else:
            shutil.copyfile(job.source, pending.model_path)
        pending.commit()
    note = "there is no Conv3D in this graph: it was written unchanged"
    if job.options.opset not in (None, job.prepared.before.opset):
        note += f", at opset {job.prepared.before.opset}"
    return job.result(written=True, after=job.prepared.before, notes=(note,))


def _write(job: _Job, model: Model, conv3d_left: int) -> ConvertResult:
    assert job.output is not None
    options = job.options
    placement = None if options.target == GENERIC else place(model.proto, options.target)
    if placement is not None and placement.obstacle:
        raise UserError(
            f"{job.source} cannot be made for the target {options.target}: {placement.obstacle}; "
            "name another --target, or none."
        )
    external = model_file.wants_external(model, options.external_data)
    with output_files.pending_output(job.output, job.source) as pending:
        with job.clock.phase("save"):
            pending.write(model, external)
            model_file.check(model.proto, "the converted graph")
            after = summarize(model.proto, conv3d_left, pending.file_bytes(), pending.data_file())
        validation = None
        if options.validate:
            with job.clock.phase("validate"):
                validation = _validate(job, pending)
        keep = validation is None or validation.passed or options.keep_invalid
        if keep:
            pending.commit()
    return job.result(written=keep, after=after, placement=placement, validation=validation)


def _validate(job: _Job, pending: PendingOutput) -> Validation:
    # Imported here: onnxruntime is an extra, and a conversion without validation needs none.
    from converter.compare.validate import validate

    try:
        return validate(
            job.source,
            pending.model_path,
            shapes=job.options.shapes,
            seed=job.options.seed,
            provider=job.options.provider,
            settings=job.options.session_settings,
            min_psnr=job.options.min_psnr,
            progress=job.clock.notify,
        )
    except CannotCompareError as error:
        raise UserError(f"{str(error).rstrip('.')}; use --no-validate.") from error


class _Clock:
    def __init__(self, notify: Notify) -> None:
        self.seconds: dict[str, float] = {}
        self.notify = notify

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.notify(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
