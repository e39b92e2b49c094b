"""NSNet2 on two recordings: what quantisation and thresholds cost in sound, and what thresholds save."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from amacrine.sw import demo, nsnet2
from amacrine.sw.execute import Execution, execute_float, execute_golden
from amacrine.sw.golden import dense_run
from amacrine.sw.layout import Parameters
from amacrine.sw.onnx_import import load_onnx
from amacrine.sw.quantise import quantise, with_thresholds
from amacrine.sw.quantised import QuantisedNetwork
from amacrine.sw.workload import Enhancement, load_enhancement

pytestmark = pytest.mark.slow


@dataclass(frozen=True, eq=False)
class Recording:
    """A demo clip, through the float network and through the golden model without and with thresholds."""

    workload: Enhancement
    in_float: Execution
    dense: Execution
    sparse: Execution


@pytest.fixture(scope="module")
def network() -> QuantisedNetwork:
    return quantise(load_onnx(nsnet2.model_path()), nsnet2.calibration_features())


@pytest.fixture(scope="module", params=list(demo.CLIPS))
def recording(request, network, tmp_path_factory) -> Recording:
    workload, notes = load_enhancement(*demo.build(tmp_path_factory.mktemp("clip"), request.param))
    assert notes == []
    sparse = with_thresholds(network, nsnet2.THRESHOLDS)
    return Recording(workload, execute_float(workload), execute_golden(workload, network, Parameters()),
                     execute_golden(workload, sparse, Parameters()))


def test_the_network_enhances(recording):
    """Else nothing that follows would mean anything."""
    assert len(recording.workload.inputs) > 900
    assert recording.workload.noisy_sisdr_db == pytest.approx(10, abs=0.1)
    assert recording.in_float.stats.sisdr_db > 12


def test_at_threshold_zero_golden_is_the_dense_integer_network(recording, network):
    expected = dense_run(network, network.quantise_inputs(recording.workload.inputs))
    for name, vectors in recording.dense.golden.vectors.items():
        np.testing.assert_array_equal(vectors, expected[name], err_msg=name)


def test_quantisation_costs_at_most_a_tenth_of_a_db(recording):
    assert abs(recording.dense.stats.sisdr_db - recording.in_float.stats.sisdr_db) <= 0.1


def test_chosen_thresholds_skip_three_quarters_of_all_gru_columns(recording):
    assert recording.sparse.stats.recurrent_columns_skipped >= 0.75
    assert recording.sparse.stats.sisdr_db >= recording.in_float.stats.sisdr_db - 0.3
    golden = recording.sparse.golden
    jobs = [job for job in golden.events if job.startswith("GRU_")]
    assert len(jobs) == 4  # two layers, two sources: what the figure above is made of
    counted = 1 - sum(golden.events[job].sum() for job in jobs) / sum(golden.columns(job) for job in jobs)
    assert recording.sparse.stats.recurrent_columns_skipped == pytest.approx(counted)
