"""Results files for the report's tests, by the schema: plausible numbers from a small model of quantization, and none from the program."""
import math

import h5py
import numpy as np

import schema_test

SCHEMA = schema_test.parse_schema(schema_test.SCHEMA.read_text(encoding="utf-8"))
STORAGE = {"chunks": True, "compression": "gzip", "shuffle": True, "fletcher32": True}
ERRORS = {"naive": 0.10, "4over6": 0.095, "sse": 0.087, "hessian": 0.09}
TERM_SHARES = (0.25, 0.1, 0.9, 0.02, 0.03, -0.3)             # of relative_mse; they add up to 1, as do the causes
CAUSE_SHARES = (0.0625, 0.125, 0.03125, 0.0, -0.03125, 0.0625, 0.75)
LEVELS = (0, 0.5, 1, 1.5, 2, 3, 4, 6)
VALUES = ",".join(f"{sign * level:g}".replace("-0", "-0") for sign in (1.0, -1.0) for level in LEVELS)
CAUSE_NAMES = ",".join(name.removeprefix("cause_") for name in schema_test.CAUSES)


def make_row(run, tensor, form, method, output_error, weight_error, **more):
    """One row of plausible values; 8 x 60 elements, so that padding happens."""
    block = more.pop("block", 32 if form == "mxfp4" else 16)
    padded, naive, relative = -(-60 // block) * block, method == "naive", weight_error**2
    decompose = more.pop("decompose", True)
    shares = zip((*schema_test.TERMS, *schema_test.CAUSES), (*TERM_SHARES, *CAUSE_SHARES))
    ratio = relative / (0.01 * (1.44 if form == "mxfp4" else 1))
    return {
        "run": f"{run:04d}", "input": "made", "tensor": tensor, "rows": 8, "cols": 60, "padded_cols": padded, "dtype": "F32", "format": form,
        "sigma": math.nan, "seed": 0, "hadamard": 0, "recipe": "exact", "rounding": "rne", "block_2d": 0,
        "block": block, "method": method, "select": "mse" if method in ("4over6", "sse") else "",
        "tensor_scale_rule": "none" if form == "mxfp4" else "amax", "scale_max": 0 if form == "mxfp4" else 448, "amax": 0.1,
        "tensor_scale": 1.0, "activations": "" if math.isnan(output_error) else "X", "tokens": 0 if math.isnan(output_error) else 4,
        "blocks": 8 * padded // block, "weight_error": weight_error, "relative_mse": relative, "output_error": output_error,
        "relative_mse_error": 0.02 * relative, "relative_mse_low": relative * (1 - 0.0392), "relative_mse_high": relative * (1 + 0.0392),
        "naive_ratio": ratio, "naive_ratio_low": 0.98 * ratio, "naive_ratio_high": 1.02 * ratio, "expected_relative_mse": math.nan,
        "block_output_error": output_error * 1.01, "mse": relative * 0.0004, "sqnr_db": -10 * math.log10(relative), "max_error": 0.01,
        "moved_share": 0.0 if naive else 0.5, "moved_up_share": 0.0 if naive else 0.25, "moved_down_share": 0.0 if naive else 0.25,
        "mean_move": 0.0 if naive else 0.5, "four_share": 0.0, "zero_share": 0.1, "saturated_share": 0.0, "underflow_share": 0.0,
        "subnormal_share": 0.05, "shrinkage": 0.99, "log_inflation": 0.2 if decompose else math.nan,
        **{name: share * relative if decompose else math.nan for name, share in shares}, "dead_share": 0.1 if decompose else math.nan,
        "clipped_share": 0.01 if decompose else math.nan, "chain": int(decompose), "bits_per_weight": 4 + 8 / block, "input_hash": "00ff" * 8,
        "activations_hash": "aa" * 16 if method == "hessian" else "", "hessian_hash": "bb" * 8 if method == "hessian" else "",
        "hessian_shift": 0.0, "proved_share": 0.0, **more}


def make_rows(tensors=("a.weight", "b.weight"), formats=("nvfp4", "mxfp4"), methods=("naive", "4over6", "sse"), activations=True, **more):
    rows = []
    for i, tensor in enumerate(tensors):
        for form in formats:
            for method in methods:
                error = ERRORS.get(method, 0.12) * (1 + 0.05 * i) * (1.2 if form == "mxfp4" else 1)
                rows.append(make_row(len(rows), tensor, form, method, error * 0.97 if activations else math.nan, error, **more))
    return rows


def renumbered(rows):
    """The same rows with runs in their order."""
    for i, row in enumerate(rows):
        row["run"] = f"{i:04d}"
    return rows


def make_seeds(seeds=4, sigmas=(0.01, 0.1), blocks=(16, 32, 64)):
    """Samples of a normal distribution, with what theory expects of them."""
    rows, random = [], np.random.default_rng(5)
    for sigma in sigmas:
        for block in blocks:
            for method in ("naive", "sse"):
                for seed in range(1, seeds + 1):
                    expected = ERRORS[method] ** 2 * (block / 16) ** 0.3 * (1 + 0.01 / sigma)
                    error = math.sqrt(expected * (1 + 0.03 * random.standard_normal()))
                    rows.append(make_row(0, "normal", "nvfp4", method, math.nan, error, block=block, input=f"normal sigma {sigma}", sigma=sigma,
                                         seed=seed, expected_relative_mse=expected if method == "naive" else math.nan, decompose=False))
    return renumbered(rows)


def write_column(group, name, values, spec):
    if spec["type"] == "text":
        encoded = [v.encode() for v in values]
        values = np.array(encoded, dtype=h5py.string_dtype("utf-8", max([1, *map(len, encoded)])))
    else:
        values = np.array(values, dtype=spec["type"])
    dataset = group.create_dataset(name, data=values, **(STORAGE if len(values) else {}))
    dataset.attrs.update(unit=spec["unit"], description=spec["meaning"])


def place_sizes(row):
    return {"code": 16, "ratio": 48, "position": row["block"], "column": row["cols"], "row": row["rows"], "scale_code": 256}


def write_profile(group, place, bins, row, random):
    """Counts, squared errors and energies; the whole error lies somewhere, more of it where there is more."""
    if place == "scale_code":
        used = np.exp(-((np.arange(bins) - 40 - 20 * (row["method"] == "naive")) / 14.0) ** 2)
    elif place == "code":
        used = np.tile([0.3, 1, 0.8, 0.6, 0.8, 0.6, 0.4, 0.3], 2)
    else:
        used = random.exponential(1.0, bins) + (20.0 if place == "column" else 0.0) * (np.arange(bins) == 3)
        used = np.exp(-np.arange(bins) / 16.0) if place == "ratio" else used
    count = np.floor(used * 400).astype(np.int64)
    wave = 1 + 0.8 * np.sin(np.arange(bins) / 3.0) + 0.1 * (row["method"] == "sse")
    middle = ((np.arange(bins) + 0.5) / bins) ** 2 + 1 / bins**2 / 12 if place == "ratio" else 1.0
    energy = count * 0.0004 * middle
    attributes = {"unit": "blocks" if place == "scale_code" else "elements"}
    marks = {"code": {"values": VALUES}, "scale_code": {"format": "e4m3", "first_normal": "8"}}.get(place, {})
    for part, values in (("count", count), ("sse", count * 0.0004 * row["relative_mse"] * wave), ("energy", energy), ("bias", -0.01 * energy)):
        dataset = group.create_dataset(f"{place}_{part}", data=values, **STORAGE)
        dataset.attrs.update({"unit": attributes["unit"] if part == "count" else "1", **marks})


def write_run(runs, row, seed):
    group, counts = runs.create_group(row["run"]), np.zeros(33, np.int64)
    up, down = (round(row[n] * row["blocks"]) for n in ("moved_up_share", "moved_down_share"))
    counts[[15, 16, 17]] = down, row["blocks"] - up - down, up
    group.create_dataset("scale_moves", data=counts, **STORAGE)
    group.create_dataset("scale_move_offsets", data=np.arange(-16, 17, dtype=np.int32), **STORAGE)
    if math.isnan(row["log_inflation"]):
        return
    remaining = group.create_dataset("cause_remaining", data=np.linspace(row["relative_mse"], 0, 128), **STORAGE)
    remaining.attrs["causes"] = CAUSE_NAMES
    random = np.random.default_rng(seed)
    for place, bins in place_sizes(row).items():
        write_profile(group, place, bins, row, random)


def write_file(path, rows, complete=1, extra=None):
    """A file that follows the schema; `extra` adds text columns that it does not know: {name: values}."""
    extra = extra or {}
    names = [*SCHEMA[schema_test.TABLE], *extra]
    with h5py.File(path, "w") as file:
        file.attrs.update(schema_version=np.int64(1), tool="fp4scope", tool_version="0.0.1", git_commit="abc123",
                          configuration='seed = 1\n# <script>alert("configuration")</script>\n', seed=np.int64(1), complete=np.int64(complete))
        table, runs = file.create_group("table"), file.create_group("runs")
        table.attrs["columns"] = ",".join(names)
        for name in names:
            spec = SCHEMA[schema_test.TABLE].get(name, {"type": "text", "unit": "", "meaning": "from the future"})
            write_column(table, name, extra.get(name) or [row[name] for row in rows], spec)
        for i, row in enumerate(rows):
            write_run(runs, row, i)
    return path


NEW = ("sigma", "seed", "hadamard", "recipe", "rounding", "block_2d", "relative_mse_error", "relative_mse_low", "relative_mse_high", "naive_ratio",
       "naive_ratio_low", "naive_ratio_high", "expected_relative_mse", "block_output_error", "subnormal_share", "shrinkage", "log_inflation",
       "dead_share", "clipped_share", "chain", *schema_test.TERMS, *schema_test.CAUSES)


def strip(path):
    """The file without what older files lack: the columns in NEW, and everything of /runs but the histograms of moves."""
    with h5py.File(path, "r+") as file:
        for name in NEW:
            del file["table"][name]
        file["table"].attrs["columns"] = ",".join(n for n in SCHEMA[schema_test.TABLE] if n not in NEW)
        for group in file["runs"].values():
            for name in [n for n in group if not n.startswith("scale_move")]:
                del group[name]
    return path
