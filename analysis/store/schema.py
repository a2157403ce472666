"""What every results file holds: tables, columns, types, units and the metrics' names.

The one module that both sides read: `trainers` writes by it, `analysis` reads by it. It imports the
standard library and pyarrow only. Renaming a column or changing its unit raises SCHEMA_VERSION.
"""

from typing import Final, Literal, NamedTuple, get_args

import pyarrow as pa

SCHEMA_VERSION: Final = 1


class Metric(NamedTuple):
    """One metric of a set of features and a classifier, as `trainers.metrics` computes it."""

    name: str
    unit: str
    description: str


FRACTION: Final = "fraction"
ONE: Final = "1"  # dimensionless

# Metrics of a split: the column is the name with `_train` or `_test` behind it.
SPLIT_METRICS: Final = (
    Metric("accuracy", FRACTION, "samples with argmax_j z_ij = y_i"),
    Metric("uniform_accuracy", FRACTION, "samples one threshold for all separates, Eq. (17)"),
    Metric("uniform_threshold", "logit", "the smallest threshold that reaches uniform_accuracy"),
    Metric("nc1", ONE, "trace(S_W pinv(S_B)) / K"),
    Metric("nc3", ONE, "distance of WM from the simplex ETF, both of norm 1"),
    Metric("nc4", FRACTION, "samples whose nearest class mean agrees with the classifier"),
    Metric("nc2_means", ONE, "nc2 of the centred class means instead of W"),
    Metric("cdnv", ONE, "class-distance normalised variance, mean over class pairs"),
    Metric("cos_within", "cosine", "mean over classes of the mean pairwise cosine inside a class"),
    Metric("cos_between", "cosine", "mean over class pairs of the mean pairwise cosine"),
    Metric("cos_to_mean", "cosine", "mean cosine of a sample to its class mean"),
    Metric("cos_means", "cosine", "mean pairwise cosine of the class means"),
    Metric("compactness", ONE, "E_com = cos_within (assumed definition)"),
    Metric("distinctiveness", ONE, "E_dis = (1 - cos_between) / 2 (assumed definition)"),
    Metric("s_pos_mean", "score", "mean of the N positive scores, without bias"),
    Metric("s_pos_std", "score", "population standard deviation of the positive scores"),
    Metric("s_neg_mean", "score", "mean of the N(K-1) negative scores, without bias"),
    Metric("s_neg_std", "score", "population standard deviation of the negative scores"),
)
# Metrics of W alone: like the rest of the NC family they carry `_train`, and no `_test`.
WEIGHT_METRICS: Final = (
    Metric("nc2", ONE, "distance of WW' from the simplex ETF, both of norm 1"),
    Metric("nc2_centered", ONE, "nc2 of W minus the mean of its rows"),
)
# Metrics of b alone: no suffix.
BIAS_METRICS: Final = (
    Metric("bias_mean", "logit", "mean of the K biases; the logits are Wh - b"),
    Metric("bias_std", "logit", "population standard deviation of the K biases"),
)
ALPHA_BIAS: Final = Metric("alpha_bias", ONE, "right side of Eq. (12) at the mean bias")

Status = Literal["running", "finished", "failed", "diverged"]
STATUSES: Final = get_args(Status)
# What kind of end a trial came to that did not finish: by it, not by `reason`, is decided what runs
# again. `device`: the machine's, such as a broken GPU; `own_code`: an error in a model or a loss.
Failure = Literal["out_of_memory", "diverged", "input", "device", "lost_worker", "own_code"]
FAILURES: Final = get_args(Failure)


def _field(name: str, kind: pa.DataType, unit: str = "", about: str = "") -> pa.Field:
    return pa.field(name, kind, metadata={"unit": unit, "description": about})


def _schema(*fields: pa.Field) -> pa.Schema:
    return pa.schema(list(fields), metadata={"schema_version": str(SCHEMA_VERSION)})


def _metric(metric: Metric, suffix: str = "") -> pa.Field:
    return _field(metric.name + suffix, pa.float64(), metric.unit, metric.description)


_TRIAL_ID: Final = _field("trial_id", pa.string(), "", "12 hex digits of SHA-256 over the config")

# The fields of a TrialConfig, as columns; dictionaries are JSON text.
CONFIG_FIELDS: Final = (
    _field("recipe_version", pa.int32(), "", "raised when the same config trains otherwise"),
    _field("dataset", pa.string(), "", "a registered name, or folder/NAME"),
    _field(
        "num_classes", pa.int32(), "classes", "K; fewer than the dataset has are its first ones"
    ),
    _field("samples_per_class", pa.int32(), "samples", "null: all"),
    _field("imbalance", pa.float64(), "1", "largest class over smallest; null: as the dataset is"),
    _field("image_size", pa.int32(), "pixels", "null: the dataset has no images"),
    _field("model", pa.string(), "", "a timm name, a registered one, mlp or ufm"),
    _field("model_kwargs", pa.string(), "JSON", "arguments of the model"),
    _field("loss", pa.string(), "", "ce | bce | focal | mse | a registered name"),
    _field("loss_kwargs", pa.string(), "JSON", "arguments of the loss"),
    _field("optimizer", pa.string(), "", "sgd | adamw | lbfgs | a timm name"),
    _field("lr", pa.float64(), "", "initial learning rate"),
    _field("momentum", pa.float64(), "", "of sgd; null for others"),
    _field("optimizer_kwargs", pa.string(), "JSON", "further arguments of the optimizer"),
    _field("schedule", pa.string(), "", "step | cosine | constant, of the learning rate"),
    _field(
        "warmup_epochs", pa.int32(), "epochs", "in which the learning rate rises in a straight line"
    ),
    _field("epochs", pa.int32(), "epochs", "to train"),
    _field("passes_per_epoch", pa.int32(), "passes", "passes over the training set in an epoch"),
    _field("batch_size", pa.int32(), "samples", "global, over all workers"),
    _field("augment", pa.string(), "", "none | da1 | da1+da2"),
    _field("rotation", pa.float64(), "degrees", "either way"),
    _field("regularizer", pa.string(), "", "features: Eq. (3) in the loss; global: weight decay"),
    _field("lambda_w", pa.float64(), "", "null where regularizer is not `features`"),
    _field("lambda_h", pa.float64(), "", "null where regularizer is not `features`"),
    _field("lambda_b", pa.float64(), "", "null where regularizer is not `features`"),
    _field("weight_decay", pa.float64(), "", "null where regularizer is not `global`"),
    _field("bias_init_mean", pa.float64(), "logit", "mean of the initial b"),
    _field(
        "precision", pa.string(), "", "fp32 | tf32 | bf16 | fp16, of training; evaluation is fp32"
    ),
    _field("compile", pa.bool_(), "", "torch.compile of the training step"),
    _field(
        "eval_every", pa.int32(), "epochs", "between evaluations; the last epoch always has one"
    ),
    _field("eval_dense", pa.int32(), "epochs", "at the start, that are all evaluated"),
    _field("seed", pa.int64(), "", "of weights, data order and augmentation"),
)

TRIALS: Final = _schema(
    _TRIAL_ID,
    *CONFIG_FIELDS,
    _field("status", pa.string(), "", " | ".join(STATUSES)),
    _field("reason", pa.string(), "", "why it failed or diverged, in a sentence"),
    _field("failure", pa.string(), "", f"the kind of reason: {' | '.join(FAILURES)}"),
    _field(
        "epochs_done", pa.int32(), "epochs", "whole ones; with rows in epochs once it has ended"
    ),
    _field("world_size", pa.int32(), "processes", "that shared the trial"),
    _field("device", pa.string(), "", "cpu, or the GPU's name"),
    _field("gpu_share", pa.float64(), "GPUs", "that a sweep gave to each process; null: no sweep"),
    _field("batch_norm", pa.string(), "", "global batch | per rank; null: one process, or none"),
    _field(
        "small_stem",
        pa.string(),
        "",
        "fitted, to images of up to 64 pixels | as timm has it; null: the model isn't timm's",
    ),
    _field("num_features", pa.int32(), "features", "d"),
    _field("num_train", pa.int32(), "samples", "of the training set"),
    _field("num_test", pa.int32(), "samples", "of the test set; 0: the model has none"),
    _field(
        "data_fingerprint",
        pa.string(),
        "",
        "16 hex digits over all images and labels as they were decoded; null: no images",
    ),
    _field("version_package", pa.string(), "", "of this package"),
    _field("version_torch", pa.string(), "", "of PyTorch"),
    _field("version_timm", pa.string(), "", "of timm"),
    _field("version_python", pa.string(), "", "of Python"),
    _field("git_commit", pa.string(), "", "null outside a git checkout"),
    _field("started_at", pa.timestamp("us", tz="UTC"), "UTC", "start of the first attempt"),
    _field("wall_s", pa.float64(), "s", "over all attempts, lost epochs excluded"),
    _field("train_s", pa.float64(), "s", "of it, in training steps"),
    _field("eval_s", pa.float64(), "s", "of it, in evaluations"),
    _field("samples_per_s", pa.float64(), "samples/s", "while training"),
    _field("peak_memory_bytes", pa.int64(), "bytes", "of the device, or of the process on a CPU"),
    _field("attempts", pa.int32(), "attempts", "starts, the first and those from a checkpoint"),
    _field("traceback", pa.string(), "", "of a trial that failed by an error in the program"),
)

EPOCHS: Final = _schema(
    _TRIAL_ID,
    _field("epoch", pa.int32(), "epochs", "1-based"),
    _field("lr", pa.float64(), "", "learning rate, the same for all steps of an epoch"),
    _field("train_loss", pa.float64(), "nat", "mean classification loss while training"),
    _field("train_objective", pa.float64(), "nat", "train_loss and the regulariser in the loss"),
    _field("loss_test", pa.float64(), "nat", "mean classification loss of the test set"),
    *(_metric(m, "_train") for m in (*SPLIT_METRICS, *WEIGHT_METRICS)),
    *(_metric(m, "_test") for m in SPLIT_METRICS),
    *(_metric(m) for m in (*BIAS_METRICS, ALPHA_BIAS)),
    _field("samples_per_s", pa.float64(), "samples/s", "while training"),
    _field("train_s", pa.float64(), "s", "in training steps"),
    _field("eval_s", pa.float64(), "s", "in evaluations"),
    _field("epoch_s", pa.float64(), "s", "train_s + eval_s"),
)

SCORES: Final = _schema(
    _TRIAL_ID,
    _field(
        "kind",
        pa.string(),
        "",
        "positive | negative | bias: of the training set; uniform: test samples that the threshold "
        "bin_left separates",
    ),
    _field("bin_left", pa.float64(), "score", "a bias is a bin of no width"),
    _field("bin_right", pa.float64(), "score", "exclusive, but for the last bin"),
    _field("count", pa.int64(), "samples", "in the bin; biases: 1"),
)

FEATURES: Final = _schema(
    _TRIAL_ID,
    _field("sample_index", pa.int32(), "", "of the test set, in its own order"),
    _field("label", pa.int32(), "", "class id from 0"),
    _field("features", pa.list_(pa.float32()), "", "h, of d numbers"),
)

# Folder of a results store -> what its files hold.
TABLES: Final = {"trials": TRIALS, "epochs": EPOCHS, "scores": SCORES, "features": FEATURES}
# Columns that two runs of one trial may differ in.
TIME_COLUMNS: Final = frozenset(
    ("started_at", "wall_s", "train_s", "eval_s", "epoch_s", "samples_per_s", "peak_memory_bytes")
)
