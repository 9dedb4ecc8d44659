"""Clusters: planted groups come back, and duplicates are those of SemDeDup's rule in float64."""

from __future__ import annotations

import faiss
import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

import curation.stages.clusters
from curation.errors import ContractError
from curation.stages.clusters import ClustersConfig, ClustersStage
from generated import population


def stage(**settings):
    return ClustersStage(ClustersConfig(**settings))


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def grouped(number=600, groups=5, width=32, spread=0.05, seed=0):
    """Unit vectors around a few orthogonal directions, and the group of each; some nearly equal another."""
    random = np.random.default_rng(seed)
    group = random.integers(0, groups, number)
    vectors = np.eye(width)[group] + spread * random.normal(size=(number, width))
    for place in range(7, number, 7):
        vectors[place] = vectors[place - 1] + 0.01 * random.normal(size=width)
        group[place] = group[place - 1]
    return unit(vectors), group


def table_of(vectors):
    rows = [row.astype("<f2").tobytes() for row in vectors]
    return population(len(vectors), embedding=pa.array(rows, pa.large_binary()))


def columns_of(table, **settings):
    measured = stage(**settings).measure_all(table)
    return [measured[name].to_numpy(zero_copy_only=False) for name in ClustersStage.columns]


def test_planted_groups_come_back_with_their_centers():
    vectors, group = grouped()
    cluster, distance, _, _ = columns_of(table_of(vectors), num_clusters=5)
    assert len(set(zip(cluster, group, strict=True))) == 5 == len(set(cluster))
    half = vectors.astype("<f2").astype(np.float64)
    for number in range(5):
        own = unit(half[cluster == number])
        center = own.mean(axis=0) / np.linalg.norm(own.mean(axis=0))
        # Centers are trained on 64 samples each, so they are near the mean of all, not at it.
        assert np.abs(distance[cluster == number] - (1 - own @ center)).max() < 0.02


def removed_by_semdedup(vectors, cluster, distance, epsilon, sign):
    """The rule of SemDeDup's pseudocode (section A.2): largest cosine to one before it above 1 - epsilon."""
    removed = set()
    for number in set(cluster):
        members = [int(place) for place in np.flatnonzero(cluster == number)]
        members.sort(key=lambda place: (sign * distance[place], place))
        cosines = np.triu(vectors[members] @ vectors[members].T, k=1)
        removed |= {members[column] for column in np.flatnonzero(cosines.max(axis=0) > 1 - epsilon)}
    return removed


@pytest.mark.parametrize("taken_first", ["nearest", "farthest"])
@pytest.mark.parametrize("epsilon", [0.002, 0.05, 0.1])
def test_duplicates_are_those_of_semdedup_at_every_epsilon(taken_first, epsilon):
    vectors, _ = grouped(spread=0.1)
    settings = {"taken_first": taken_first, "num_clusters": 5}
    table = table_of(vectors)
    chosen = stage(min_semantic_distance=epsilon, **settings)
    rows = chosen.measure_all(table).to_pylist()
    assert rows == stage(**settings).measure_all(table).to_pylist()
    cluster, distance = (np.array([row[name] for row in rows]) for name in ("cluster_id", "cluster_distance"))
    half = unit(vectors.astype("<f2").astype(np.float64))
    sign = 1 if taken_first == "nearest" else -1
    known = removed_by_semdedup(half, cluster, distance, epsilon, sign)
    found = {place for place, row in enumerate(rows) if chosen.reject_reason(row) == "semantic_duplicate_of"}
    assert found == known
    assert 40 < len(found) < 600


def test_nearest_before_it_is_named_with_its_distance():
    vectors = unit(np.array([[1, 0.02], [1, 0], [1, 0.1], [1, 0.12]]))
    # The center is near 1, 0.06: taken are 0 or 2 first, and 1 and 3 last, near 0 and 2 respectively.
    rows = stage(num_clusters=1).measure_all(table_of(vectors)).to_pylist()
    assert rows[1]["semantic_duplicate_of"] == "sample00000"
    assert rows[3]["semantic_duplicate_of"] == "sample00002"
    assert rows[1]["semantic_distance"] == pytest.approx(1 - vectors[1] @ vectors[0], abs=1e-3)
    assert [row["semantic_duplicate_of"] for row in rows].count(None) == 1


def test_far_ones_have_no_neighbor():
    rows = stage(num_clusters=1).measure_all(table_of(np.eye(4))).to_pylist()
    assert {(row["semantic_duplicate_of"], row["semantic_distance"]) for row in rows} == {(None, None)}


def test_size_of_blocks_does_not_matter(monkeypatch):
    table = table_of(grouped()[0])
    known = columns_of(table)
    monkeypatch.setattr(curation.stages.clusters, "_BLOCK_ROWS", 7)
    monkeypatch.setattr(curation.stages.clusters, "_BLOCK_CELLS", 100)
    cluster, distance, of, gap = columns_of(table)
    assert np.array_equal(cluster, known[0])
    assert np.array_equal(of, known[2])
    assert np.abs(distance - known[1]).max() < 1e-6
    assert np.nanmax(np.abs(gap - known[3])) < 1e-6


def test_number_of_processors_does_not_matter():
    table = table_of(grouped(4000, width=64)[0])
    before = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(1)
        one = stage().measure_all(table)
        faiss.omp_set_num_threads(2)
        two = stage().measure_all(table)
    finally:
        faiss.omp_set_num_threads(before)
    assert one.equals(two)


def test_chunks_of_the_column_do_not_matter():
    table = table_of(grouped()[0])
    parts = pa.concat_tables([table.slice(0, 1), table.slice(1, 250), table.slice(251)])
    assert parts["embedding"].num_chunks == 3
    assert stage().measure_all(parts).equals(stage().measure_all(table))


@pytest.mark.parametrize(("number", "num_clusters"), [(1, None), (1, 8), (3, 8), (200, 199)])
def test_few_samples(number, num_clusters):
    vectors = unit(np.random.default_rng(0).normal(size=(number, 8)))
    cluster, _, _, _ = columns_of(table_of(vectors), num_clusters=num_clusters)
    assert len(cluster) == number
    assert cluster.max() < min(number, num_clusters or 1)


def test_a_cluster_of_equals_keeps_one():
    rows = stage().measure_all(table_of(np.tile(unit(np.ones((1, 8))), (50, 1)))).to_pylist()
    assert [stage().reject_reason(row) for row in rows].count(None) == len(
        {row["cluster_id"] for row in rows}
    )


def test_embeddings_of_two_models_are_refused():
    table = population(2, embedding=[bytes(16), bytes(32)])
    with pytest.raises(ContractError, match="2 different lengths"):
        stage().measure_all(table)


def test_no_epsilon_beyond_what_is_recorded():
    with pytest.raises(ValidationError, match="must not be above max_recorded"):
        ClustersConfig(min_semantic_distance=0.6)


class Scattered:
    """Some samples of a table, in any order, as they lie in unit files."""

    def __init__(self, table, places):
        self.table, self.places = table, places

    def read(self, columns):
        return self.table.select(columns).take(pa.array(self.places))


@pytest.mark.parametrize(("width", "num_clusters"), [(64, 31), (768, 8), (16, 3)])
def test_division_into_parts_does_not_matter(monkeypatch, width, num_clusters):
    """Bit for bit, also of samples that are equal and of clusters that are compared apart."""
    random = np.random.default_rng(5)
    vectors = grouped(2000, width=width, spread=0.3)[0]
    vectors[random.integers(0, 2000, 200)] = vectors[random.integers(0, 2000, 200)]
    table = table_of(vectors)
    chosen = stage(num_clusters=num_clusters)
    known = chosen.measure_all(table)
    monkeypatch.setattr(curation.stages.clusters, "_BUCKET_ROWS", 300)
    monkeypatch.setattr(curation.stages.clusters, "_PAIRS", 7)
    for bounds in ([], [1, 8, 700], list(range(100, 2000, 100))):
        parts = [Scattered(table, places) for places in np.split(random.permutation(2000), bounds)]
        assert chosen.measure_parts(table.drop_columns(["embedding"]), parts, map).equals(known)


def test_sample_between_two_centers_goes_to_the_same_one_wherever_it_stands():
    """A product of matrices tells them apart by its last digit, which depends on the place of a row."""
    random = np.random.default_rng(1)
    centers = unit(random.normal(size=(31, 768))).astype(np.float32)
    centers[1] = np.roll(centers[0], 384)
    half = centers[0, :384] + centers[0, 384:] + 0.02 * random.normal(size=(3000, 384))
    table = table_of(unit(np.hstack([half, half])))  # as near to the first center as to the second
    known, _ = curation.stages.clusters._assign(centers, 1, Scattered(table, np.arange(3000)))
    assert set(known) == {0, 1}
    order = random.permutation(3000)
    for places in np.split(order, [1, 5, 900]):
        found, _ = curation.stages.clusters._assign(centers, 1, Scattered(table, places))
        assert np.array_equal(found, known[places])


def test_equally_near_neighbors_are_named_alike_in_blocks_of_any_size(monkeypatch):
    """Of samples that are equal, or nearly, the first taken is named: not the one that rounding favors."""
    random = np.random.default_rng(2)
    vectors = grouped(900, groups=3, width=768, spread=0.02)[0]
    vectors[300:600] = vectors[random.integers(0, 300, 300)]
    table = table_of(vectors)
    known = stage(num_clusters=3).measure_all(table)
    for cells in (300, 5_000, 100_000):
        monkeypatch.setattr(curation.stages.clusters, "_BLOCK_CELLS", cells)
        assert stage(num_clusters=3).measure_all(table).equals(known)


def test_of_very_many_equals_each_names_the_first(monkeypatch):
    monkeypatch.setattr(curation.stages.clusters, "_BLOCK_CELLS", 2000)
    rows = stage(num_clusters=1).measure_all(table_of(np.tile(unit(np.ones((1, 8))), (300, 1)))).to_pylist()
    assert {row["semantic_duplicate_of"] for row in rows[1:]} == {"sample00000"}
