"""What defines a trial: TrialConfig, its validation and its id.

Everything that can change a result is a field here; paths, hosts, worker counts and logging are
not. A field left out is filled in from the paper's recipe before the trial is identified.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Annotated, Any, ClassVar, Final, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from analysis.store.errors import InputError, unknown
from analysis.store.rows import ConfigRow
from trainers.datasets import find_dataset
from trainers.names import check_model, check_optimizer
from trainers.recipes import COSINE_END, RECIPES, Schedule
from trainers.registry import LOSSES

Augment = Literal["none", "da1", "da1+da2"]
Regularizer = Literal["features", "global"]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]


DEFAULT_LAMBDA: Final = 5e-4
DA1_FROM: Final = 8  # pixels: below, a crop by an eighth moves nothing
KWARGS: Final = ("model_kwargs", "loss_kwargs", "optimizer_kwargs")
LAMBDAS: Final = ("lambda_w", "lambda_h", "lambda_b")
# What a field is where an id doesn't hold it: its default when it was first released. These values
# never change; a new field comes here with its own. A default that changes, or a raised
# `recipe_version`, is then in the ids of the trials that have it.
UNSAID: Final[Mapping[str, Any]] = {
    "recipe_version": 1,
    "num_classes": None,
    "samples_per_class": None,
    "imbalance": None,
    "image_size": None,
    "model_kwargs": {},
    "loss_kwargs": {},
    "lr": None,
    "momentum": None,
    "optimizer_kwargs": {},
    "schedule": None,
    "warmup_epochs": 0,
    "epochs": 100,
    "passes_per_epoch": 1,
    "batch_size": 128,
    "augment": "none",
    "rotation": 0.0,
    "regularizer": "features",
    "lambda_w": None,
    "lambda_h": None,
    "lambda_b": None,
    "weight_decay": None,
    "bias_init_mean": 0.0,
    "precision": "fp32",
    "compile": False,
    "eval_every": 1,
    "eval_dense": 0,
    "seed": 0,
}
_NEVER: Final = object()

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, lt=2**31)]  # what the results' columns hold


class TrialConfig(BaseModel):
    """One training run. Frozen, complete and checked: building one is the check."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=()
    )

    # Raised when the code trains otherwise from the same fields, so that old rows keep their name.
    recipe_version: Literal[1] = 1
    dataset: str
    num_classes: int | None = None  # K; None: all of the dataset
    samples_per_class: Count | None = None  # of the training set; None: all
    # Largest class over smallest, exponential between; None: as the dataset is.
    imbalance: Annotated[float, Field(gt=1, allow_inf_nan=False)] | None = None
    image_size: Annotated[int, Field(ge=4, le=1024)] | None = None  # pixels; None: the dataset's
    model: str
    model_kwargs: dict[str, Any] = {}
    loss: str
    loss_kwargs: dict[str, Any] = {}
    optimizer: str
    lr: Positive | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    optimizer_kwargs: dict[str, Any] = {}
    schedule: Schedule | None = None
    warmup_epochs: Annotated[int, Field(ge=0)] = 0  # of `epochs`: lr rises in a straight line
    epochs: Count = 100
    passes_per_epoch: Count = 1  # for data so small that an epoch would be a step
    batch_size: Count = 128  # global, over all workers
    augment: Augment = "none"
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0  # degrees, either way
    regularizer: Regularizer = "features"
    lambda_w: NotNegative | None = None
    lambda_h: NotNegative | None = None
    lambda_b: NotNegative | None = None
    weight_decay: NotNegative | None = None
    bias_init_mean: Finite = 0.0
    precision: Precision = "fp32"  # of training; weights, evaluation and metrics are never reduced
    compile: bool = False  # by torch.compile, if there are steps enough to be worth its minute
    eval_every: Count = 1
    eval_dense: Annotated[int, Field(ge=0, lt=2**31)] = (
        0  # epochs at the start that are all evaluated
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @classmethod
    def parse(cls, fields: Mapping[str, Any], *, where: str = "") -> Self:
        """Build a config from a study's fields. Raises InputError, one line, naming the field."""
        prefix = f"{where}: " if where else ""
        for key in fields:
            if key not in cls.model_fields:
                raise InputError(f"{prefix}{unknown('field', key, sorted(cls.model_fields))}")
        try:
            return cls(**fields)
        except ValidationError as error:
            raise InputError(prefix + _complaints(error)) from error

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """Give what is left out the value of the paper's recipe."""
        filled = {key: value for key, value in fields.items() if value is not None}
        for key, value in filled.items():
            if isinstance(value, bool) and key != "compile":  # pydantic takes it for 0 or 1
                raise InputError(f"{key}={value} must be a number or a name, not true or false")
            if isinstance(value, str):
                _check_text(key, value)
        for key in KWARGS:
            _check_plain(key, filled.get(key))
        dataset, recipe = filled.get("dataset"), RECIPES.get(str(filled.get("optimizer")))
        with suppress(InputError):  # which the check of names raises
            facts = find_dataset(str(dataset))
            for name in ("num_classes", "samples_per_class", "image_size"):
                filled.setdefault(name, getattr(facts, name))
        by_features = filled.get("regularizer", "features") == "features"
        if by_features:
            for name in LAMBDAS:
                filled.setdefault(name, DEFAULT_LAMBDA)
        if recipe is not None:
            filled.setdefault("lr", recipe.lr)
            filled.setdefault("schedule", recipe.schedule)
            filled.setdefault("momentum", recipe.momentum)
            if not by_features:
                filled.setdefault("weight_decay", recipe.weight_decay)
        return filled

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        _named("dataset", self.dataset, find_dataset)
        _named("loss", self.loss, LOSSES.check)
        _named("model", self.model, check_model)
        _named("optimizer", self.optimizer, check_optimizer)
        return self

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        """Refuse a field that would have no effect: it would give one training two ids."""
        if self.regularizer == "global":
            for name in LAMBDAS:
                if getattr(self, name) is not None:
                    raise InputError(
                        f"{name}={getattr(self, name)} has no effect with regularizer=global, "
                        "where weight_decay holds for all parameters; leave it out"
                    )
            if self.weight_decay is None:
                raise InputError(
                    f"regularizer=global needs a weight_decay, which optimizer={self.optimizer} "
                    "doesn't have; use regularizer=features"
                )
        elif self.weight_decay is not None:
            raise InputError(
                f"weight_decay={self.weight_decay} has no effect with regularizer=features; use "
                "lambda_w, lambda_h and lambda_b, or regularizer=global"
            )
        self._check_optimizer()
        self._check_schedule()
        self._check_data()
        return self

    def _check_optimizer(self) -> None:
        recipe = RECIPES.get(self.optimizer)
        for name in ("lr", "schedule"):
            if getattr(self, name) is None:
                raise InputError(
                    f"optimizer={self.optimizer} has no recipe in the paper; give it a {name}"
                )
        if self.momentum is not None and (recipe is None or recipe.momentum is None):
            raise InputError(
                f"momentum={self.momentum} has no effect with optimizer={self.optimizer}; "
                "leave it out, or write it into optimizer_kwargs"
            )
        for name in ("lr", "weight_decay", *(["momentum"] if recipe else [])):
            if name in self.optimizer_kwargs:
                raise InputError(f"optimizer_kwargs holds {name}, which is a field of its own")
        if self.optimizer == "lbfgs" and self.precision == "fp16":
            raise InputError(
                "precision=fp16 scales the loss, which optimizer=lbfgs can't follow; use bf16"
            )

    def _check_schedule(self) -> None:
        if self.schedule == "cosine" and self.lr is not None and self.lr < COSINE_END:
            raise InputError(
                f"lr={self.lr:g} is below {COSINE_END:g}, where schedule=cosine ends; use "
                "schedule=constant"
            )
        if self.warmup_epochs >= self.epochs:
            raise InputError(
                f"warmup_epochs={self.warmup_epochs} must be less than epochs={self.epochs}"
            )
        if self.eval_dense and (self.eval_every == 1 or self.eval_dense >= self.epochs):
            raise InputError(
                f"eval_dense={self.eval_dense} has no effect with eval_every={self.eval_every} and "
                f"epochs={self.epochs}; leave it out, or use eval_every=1"
            )

    def _check_data(self) -> None:
        facts = find_dataset(self.dataset)
        if self.num_classes is None:
            raise InputError(
                f"dataset={self.dataset} needs num_classes, the number of its class folders"
            )
        if not 2 <= self.num_classes <= facts.most_classes:
            raise InputError(
                f"num_classes={self.num_classes} must be from 2 to {facts.most_classes} for "
                f"{self.dataset}"
            )
        if not facts.has_images:
            if self.image_size is not None:
                raise InputError("image_size has no effect with dataset=labels; leave it out")
            if self.samples_per_class is None:
                raise InputError("dataset=labels needs samples_per_class")
            if self.model != "ufm":
                raise InputError(
                    f"model={self.model!r} needs images and dataset=labels has none; use model=ufm"
                )
        if self.augment != "none" and self.image_size is not None and self.image_size < DA1_FROM:
            raise InputError(
                f"augment={self.augment} crops by an eighth of a side, which is no pixel at "
                f"image_size={self.image_size}; use {DA1_FROM} or more, or augment=none"
            )
        unseen = {"augment": "none", "rotation": 0, "image_size": facts.image_size}
        for name, value in unseen.items() if self.model == "ufm" else ():
            if getattr(self, name) != value:
                raise InputError(
                    f"{name}={getattr(self, name)} has no effect with model=ufm; leave it out"
                )

    def canonical(self) -> str:
        """JSON that is the same for the same training: sorted keys, shortest numbers.

        What equals `UNSAID` is left out, so that a field added later doesn't rename the trials of
        today.
        """
        fields = {k: v for k, v in self.model_dump().items() if v != UNSAID.get(k, _NEVER)}
        return json.dumps(_shortest(fields), sort_keys=True, separators=(",", ":"))

    @property
    def trial_id(self) -> str:
        """First 12 hex digits of SHA-256 over the canonical JSON."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:12]

    def row(self) -> ConfigRow:
        """The config as columns of `store.schema.CONFIG_FIELDS`; dictionaries as JSON text."""
        fields = self.model_dump()
        for name in KWARGS:
            fields[name] = json.dumps(_shortest(fields[name]), sort_keys=True)
        return cast(ConfigRow, fields)


def _check_text(field: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{field}={value!r} must be text that files can hold: {error}") from error


def _check_plain(field: str, value: object) -> None:
    try:
        json.dumps(value, allow_nan=False)
        _check_keys(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{field} must hold names, finite numbers, true, false, lists and mappings alone: "
            f"{error}"
        ) from error


def _check_keys(value: object) -> None:
    """In JSON, which the id is made of, 1 and "1" would be one key."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{key!r} is not a name")
            _check_keys(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_keys(inner)


def _named(field: str, name: str, check: Callable[[str], object]) -> None:
    try:
        check(name)
    except InputError as error:
        raise InputError(f"{field}={error}") from error


def _complaints(error: ValidationError) -> str:
    """All of pydantic's complaints in one line: each as field, value, what is accepted."""
    errors = error.errors()
    missing = [str(each["loc"][0]) for each in errors if each["type"] == "missing"]
    told = [_complaint(each) for each in errors if each["type"] != "missing"]
    if missing:
        are = "is missing; give it" if len(missing) == 1 else "are missing; give each"
        told.insert(0, f"{', '.join(missing)} {are} a value")
    return "; ".join(told)


def _complaint(error: ErrorDetails) -> str:
    if error["type"] == "value_error":  # one of our own, complete as it is
        return str(error.get("ctx", {}).get("error"))
    accepted = error["msg"].removeprefix("Input should be ")
    said = f"must be {accepted}" if accepted != error["msg"] else f"can't be taken: {accepted}"
    field = ".".join(str(part) for part in error["loc"])
    return f"{field}={error['input']!r} {said}"


def _shortest(value: Any) -> Any:
    """1.0 and 1 are one number, so that they are one trial."""
    if isinstance(value, Mapping):
        return {str(key): _shortest(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_shortest(inner) for inner in value]
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return int(value)
    return value
