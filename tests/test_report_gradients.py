"""The figures of the gradient's way back: through training, through states, and through depth."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from made import training, write_sweep

from seqbench.report import svg, tables, theme
from seqbench.report.frame import Sweep, read_sweep
from seqbench.report.page import render
from seqbench.report.plots import depth, gradient, jacobian, states, training_flow
from seqbench.report.summary import flow_table, flows, flows_in_training, state_decays

DISTANCES = list(range(1, 20))


def falling(factor: float, moment: str, **more: Any) -> dict[str, list[Any]]:
    rows = len(DISTANCES)
    fixed = {name: [value] * rows for name, value in {"moment": moment, **more, "sequences": 4}.items()}
    return {**fixed, "distance": DISTANCES, "median": [factor**d for d in DISTANCES]}


def joined(*tables: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {name: [value for table in tables for value in table[name]] for name in tables[0]}


def maps(kept: dict[str, float], **more: Any) -> dict[str, list[Any]]:
    """Singular values that fall by a factor per step, before and after training."""
    rows = [
        {
            "moment": moment, "of": "state to state", "direction": "past", "distance": d, "largest": k**d,
            "median": (k / 2) ** d, "smallest": (k / 4) ** d, "lyapunov": math.log(k), **more,
        }
        for moment, k in kept.items()
        for d in (1, 2, 4, 8)
    ]  # fmt: skip
    return {name: [row[name] for row in rows] for name in rows[0]}


def swept(folder: Path, tables: dict[str, dict[str, dict[str, list[Any]]]], seeds: int = 1) -> Sweep:
    work = [(training(m, 16, s, 0.5), columns) for m, columns in tables.items() for s in range(seeds)]
    return read_sweep(write_sweep(folder, work))


def learned(start: float, middle: float, end: float) -> dict[str, dict[str, list[Any]]]:
    moments = {"init": start, "step 10": start, "step 30": middle, "final": end}
    return {"gradient_flow": joined(*(falling(factor, moment) for moment, factor in moments.items()))}


def test_the_decay_is_followed_through_training(tmp_path):
    sweep = swept(tmp_path / "s", {"rnn": learned(0.5, 0.55, 0.6), "gru": learned(0.6, 0.8, 0.98)})
    found = flows_in_training(sweep, flow_table(sweep))
    gru = found[found["label"] == "gru"]
    assert gru["step"].tolist() == [0, 10, 30, 100]  # the end is where the runs ended
    assert gru["factor"].tolist() == pytest.approx([0.6, 0.6, 0.8, 0.98])
    assert training_flow.shows(found) == (
        "At the end the gradient still falls with distance in rnn (\N{MULTIPLICATION SIGN}0.50 to 0.60). "
        "Training itself builds the memory in gru (\N{MULTIPLICATION SIGN}0.60 to 0.98)."
    )
    assert "figure-training-flow" in render(sweep)


def test_without_looks_during_training_there_is_no_such_figure(tmp_path):
    columns = {"gradient_flow": joined(falling(0.5, "init"), falling(0.6, "final"))}
    sweep = swept(tmp_path / "s", {"rnn": columns})
    task, rung, _ = flow_table(sweep)
    assert training_flow.plot(task, rung, flows_in_training(sweep, flow_table(sweep)), sweep.labels) is None
    assert "figure-training-flow" not in render(sweep)


def test_a_moment_that_nobody_knows_is_left_out(tmp_path):
    odd = {"gradient_flow": joined(falling(0.5, "init"), falling(0.5, "step <b>"), falling(0.6, "final"))}
    sweep = swept(tmp_path / "s", {"rnn": odd})
    assert flows_in_training(sweep, flow_table(sweep))["step"].tolist() == [0, 100]
    render(sweep)


def test_each_state_has_its_own_decay(tmp_path):
    flow = joined(
        *(
            falling(factor, moment, state=state)
            for state, (start, end) in {"state": (0.5, 0.6), "cell": (0.7, 0.9)}.items()
            for moment, factor in (("init", start), ("final", end))
        )
    )
    sweep = swept(tmp_path / "s", {"lstm": {**learned(0.5, 0.5, 0.5), "state_flow": flow}})
    task, rung, _ = flow_table(sweep)
    decays = state_decays(states.chosen(sweep, task, rung))
    assert dict(zip(decays["state"] + decays["moment"], decays["factor"], strict=True)) == pytest.approx(
        {"stateinit": 0.5, "statefinal": 0.6, "cellinit": 0.7, "cellfinal": 0.9}
    )
    times = "\N{MULTIPLICATION SIGN}"
    assert states.shows(decays, sweep.labels) == (
        f"Remains per step before and after training: lstm: state {times}0.50, then 0.60; "
        f"cell {times}0.70, then 0.90."
    )
    assert "figure-states" in render(sweep)


def test_states_without_any_gradient_are_not_drawn(tmp_path):
    flow = {**falling(0.5, "init", state="block 2"), "median": [0.0] * len(DISTANCES)}
    sweep = swept(tmp_path / "s", {"transformer": {**learned(1.0, 1.0, 1.0), "state_flow": flow}})
    assert "figure-states" not in render(sweep)


def test_the_map_of_two_directions_is_the_larger_of_theirs(tmp_path):
    both = joined(
        maps({"init": 0.5, "final": 0.6}, direction="forwards"),
        maps({"init": 0.4, "final": 0.9}, direction="backwards"),
    )
    sweep = swept(tmp_path / "s", {"bilstm": {**learned(0.5, 0.5, 0.5), "jacobian": both}}, seeds=2)
    task, rung, _ = flow_table(sweep)
    table = jacobian.chosen(sweep, task, rung)
    largest = table[table["moment"] == "final"].groupby("distance")["largest"].median().to_dict()
    assert largest == pytest.approx({d: 0.9**d for d in (1, 2, 4, 8)})
    assert jacobian.shows(table, sweep.labels).endswith("bilstm \N{MINUS SIGN}0.69 to \N{MINUS SIGN}0.11.")
    assert "figure-jacobian" in render(sweep)


def test_a_model_without_a_state_shows_its_inputs(tmp_path):
    table = maps({"init": 0.5, "final": 0.6}, of="input to output")
    sweep = swept(tmp_path / "s", {"transformer": {**learned(1.0, 1.0, 1.0), "jacobian": table}})
    task, rung, _ = flow_table(sweep)
    assert set(jacobian.chosen(sweep, task, rung)["of"]) == {"input to output"}
    assert jacobian.shows(jacobian.chosen(sweep, task, rung), sweep.labels) == ""


def test_distances_that_not_every_seed_has_are_left_out(tmp_path):
    short = {name: values[:-1] for name, values in maps({"final": 0.6}).items()}
    work = [
        (training("gru", 16, s, 0.5), {**learned(0.5, 0.5, 0.5), "jacobian": table})
        for s, table in enumerate([maps({"final": 0.6}), short])
    ]
    sweep = read_sweep(write_sweep(tmp_path / "s", work))
    task, rung, _ = flow_table(sweep)
    assert sorted(set(jacobian.chosen(sweep, task, rung)["distance"])) == [1, 2, 4]


def stacked(norms: list[float], steps: int = 3) -> dict[str, dict[str, list[Any]]]:
    columns = {
        f"encoder.blocks.{n}.{part}": [norm] * steps for n, norm in enumerate(norms) for part in ("a", "b")
    }
    return {"parameters": {"step": [20 * i + 1 for i in range(steps)], "embedding": [9.0] * steps, **columns}}


def test_the_gradient_of_each_layer_is_that_of_all_its_weights(tmp_path):
    deep = {**learned(1.0, 1.0, 1.0), **stacked([0.1, 0.2, 1.0])}
    sweep = swept(tmp_path / "s", {"transformer": deep})
    task, rung, _ = flow_table(sweep)
    found = depth.by_layer(sweep, task, rung)
    assert found["norm"].tolist() == pytest.approx([norm * 2**0.5 for norm in (0.1, 0.2, 1.0)])
    assert (
        depth.shows(found, sweep.labels)
        == "The first layer receives little in transformer (0.1 of the last)."
    )
    assert "figure-depth" in render(sweep)


def test_a_shallow_stack_has_no_depth_to_show(tmp_path):
    sweep = swept(tmp_path / "s", {"transformer": {**learned(1.0, 1.0, 1.0), **stacked([0.1, 0.2])}})
    assert "figure-depth" not in render(sweep)


def test_black_areas_and_markers_follow_the_page_into_the_dark():
    from matplotlib.patches import Patch

    with theme.drawing():
        figure, (panel,) = theme.panels(1, 2.0)
        panel.plot([0, 1], [0, 1], "^", color=theme.INK)
        panel.plot([0, 1], [1, 0], color=theme.BLUE, marker="o")
        figure.legend(handles=[Patch(color=theme.INK, linewidth=0, alpha=0.35)], labels=["open"])
    picture = ET.fromstring(svg.inline(figure, "k", "t", "d"))
    drawn = [e for e in picture.iter() if e.tag in ("path", "use")]
    defined = {e for d in picture.iter() if d.tag in ("defs", "clipPath") for e in d.iter()}
    parents = {child: parent for parent in picture.iter() for child in parent}

    def fill(element: ET.Element) -> str | None:
        """Its own, or that of the nearest group around it."""
        while element.get("fill") is None and element in parents:
            element = parents[element]
        return element.get("fill")

    fills = [fill(e) for e in drawn if e not in defined]
    assert None not in fills
    assert {"currentColor", theme.BLUE, "none"} <= set(fills)
    assert any(e.get("fill-opacity") == "0.35" or e.get("opacity") == "0.35" for e in drawn)


def seed_curves(curves: list[list[float]]) -> list[dict[str, list[Any]]]:
    """A table for each seed before training, of as many distances as its curve has."""
    return [
        {
            "moment": ["init"] * len(curve),
            "distance": list(range(len(curve))),
            "median": curve,
            "sequences": [4] * len(curve),
        }
        for curve in curves
    ]


def of_seeds(folder: Path, models: dict[str, list[dict[str, list[Any]]]]) -> Sweep:
    work = [
        (training(model, 16, seed, 0.5, metrics={"causal": model != "bilstm"}), {"gradient_flow": table})
        for model, seeds in models.items()
        for seed, table in enumerate(seeds)
    ]
    return read_sweep(write_sweep(folder, work))


def test_what_remains_far_away_is_of_distances_that_all_seeds_have(tmp_path):
    """Two seeds reach distance 4 and one only 3; at 4 the other two would speak alone."""
    curves = [[9.0, 1.0, 0.5, 0.15, 8.0], [9.0, 100.0, 9.0, 1.2, 900.0], [9.0, 1000.0, 90.0, 60.0]]
    sweep = of_seeds(tmp_path / "s", {"gru": seed_curves(curves)})
    (flow,) = flows(sweep, flow_table(sweep))
    assert flow.far_distance == 3
    assert flow.far == pytest.approx(0.06)  # of 0.15, 0.012 and 0.06: each seed's own ratio, then the median
    assert flow.decay.n == 3
    shown = tables.gradients([flow])
    assert [entry.text for entry in shown.rows[0][-2:]] == ["0.06", "3"]
    assert "|dL/dx| at that distance / at distance 1, median over seeds" in shown.caption
    figure = gradient.draw(flow_table(sweep)[2], [flow], sweep.labels)
    assert max(figure.axes[0].lines[0].get_xdata()) == 3


def test_the_fit_is_over_distances_that_all_seeds_have(tmp_path):
    straight = [0.5**d for d in range(6)]
    bent = [*straight, 1e9, 1e9]
    sweep = of_seeds(tmp_path / "s", {"gru": seed_curves([bent, straight])})
    (flow,) = flows(sweep, flow_table(sweep))
    assert flow.decay.factor == pytest.approx(0.5)


def test_seeds_without_a_common_distance_have_no_decay(tmp_path):
    table = seed_curves([[1.0, 0.5, 0.2]])[0]
    apart = {**table, "distance": [7, 8, 9]}
    sweep = of_seeds(tmp_path / "s", {"gru": [table, apart]})
    (flow,) = flows(sweep, flow_table(sweep))
    assert (flow.far_distance, flow.decay.n) == (0, 0)
    row = tables.gradients([flow]).rows[0]
    assert [entry.text for entry in row[2:7]] == [tables.NONE] * 5
    render(sweep)


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        ((0.5, 0.5), "1.0"), ((0.9999, 0.9999), "over 1000"), ((1.016, 1.017), "none (grows)"),
        ((1.016,), "none (grows)"), ((0.9, 1.2), "none"), ((1.0,), "none"), ((1.0, 1.0), "none"),
    ],
)  # fmt: skip
def test_the_half_life_of_what_does_not_fall(tmp_path, factors, words):
    curves = [[factor**d for d in range(12)] for factor in factors]
    sweep = of_seeds(tmp_path / "s", {"gru": seed_curves(curves)})
    assert tables.gradients(flows(sweep, flow_table(sweep))).rows[0][4].text == words


def changed_by_training(starts: list[float], ends: list[float]) -> list[dict[str, list[Any]]]:
    return [joined(falling(a, "init"), falling(b, "final")) for a, b in zip(starts, ends, strict=True)]


def told(sweep: Sweep) -> str:
    chosen = flow_table(sweep)
    return gradient.shows(sweep, chosen[0], chosen[1], flows(sweep, chosen))


def test_training_raised_only_what_no_interval_denies(tmp_path):
    sure = changed_by_training([0.50, 0.51, 0.52], [0.90, 0.91, 0.92])
    unsure = changed_by_training([0.55, 0.60, 0.65], [0.60, 0.75, 0.95])
    times = "\N{MULTIPLICATION SIGN}"
    both = told(of_seeds(tmp_path / "s", {"gru": sure, "lstm": unsure}))
    assert f"Training raised what remains per step in gru ({times}0.51 to 0.91)." in both
    assert f"The mean of it rose in lstm ({times}0.60 to 0.75); over 3 seeds that is not certain." in both
    alone = told(of_seeds(tmp_path / "t", {"lstm": unsure[:1]}))
    assert f"rose in lstm ({times}0.55 to 0.60)" not in alone  # too little to speak of
    one = told(of_seeds(tmp_path / "u", {"gru": sure[:1]}))
    assert (
        f"The mean of what remains per step rose in gru ({times}0.50 to 0.90); over one seed that is not "
        "certain." in one
    )
