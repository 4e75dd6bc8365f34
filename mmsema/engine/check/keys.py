"""Keys and types of a config that nothing takes: at the top, in every dict with a ``type``, and in some without."""

import inspect
import re
from importlib import import_module
from typing import Any, Callable, Dict, Iterable, List, Optional, Set, Tuple

from mmengine.config import Config
from mmengine.dist import init_dist
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.runner import Runner
from mmengine.utils.dl_utils import set_multi_processing
from torch.nn.utils import clip_grad_norm_

from .places import (
    ANYWHERE,
    DATASET,
    ELSEWHERE,
    HOOK,
    IDLE,
    IN_MODEL,
    INITIALIZER,
    LOADER_KEYS,
    OLD_SETTINGS,
    SETTINGS,
    TOP,
    TRANSFORM,
    UNTYPED,
    Place,
    place_in_model,
)  # fmt: skip
from .registries import did_you_mean, find, holders, names_of, near, registries_of
from .signature import Arguments, arguments_of, quoted_by, takes_text, vocabulary

DEFAULT_HOOKS = ("runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint", "visualization")


class KeyCheck:
    """Walks through a config and collects what is wrong, as pairs of a place and a text."""

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg
        self.scope = cfg.get("default_scope") or "mmengine"
        self.faults: List[Tuple[str, str]] = []
        self.classes: List[Callable] = []  # of the part that is being walked
        self.loose: List[Tuple[str, dict]] = []  # dicts of that part whose keys its classes read
        self.wrappers = wrappers_in(cfg.get("optim_wrapper"))

    def run(self) -> List[Tuple[str, str]]:
        if self.scope != "mmengine" and registries_of("MODELS", self.scope)[0].scope != self.scope:
            hint = did_you_mean(self.scope, ("mmdet", "mmpretrain", "mmseg", "mmengine", "mmsema"))
            self.add("default_scope", f"no package {self.scope} with registries can be imported{hint}")
            self.scope = "mmengine"
        self.top()
        for key, place in TOP.items():
            value = self.cfg.get(key)
            if value is None or key == "default_hooks":
                continue
            if key.endswith("_dataloader"):
                self.loader(value, key)
            elif key.endswith("_evaluator"):
                self.evaluator(value, key)
            elif key == "optim_wrapper":
                for path, wrapper in self.wrappers.items():
                    self.walk(wrapper, path, place, self.scope, False)
            else:
                self.walk(value, key, self.fit(key, value, place), self.scope, key in ("model", "tta_model"))
            if key != "model":  # read beside its data_preprocessor
                self.read_loose_dicts()
        self.read_loose_dicts()
        self.hooks(self.cfg.get("default_hooks") or {})
        self.plain()
        return self.faults

    def add(self, path: str, text: str) -> None:
        self.faults.append((path, text))

    def unknown(self, path: str, key: Any, owner: str, names: Iterable[str]) -> None:
        names = sorted(set(map(str, names)))
        found = near(str(key), names)
        if found is None and len(names) <= 20:
            hint = f"; it takes {', '.join(names)}" if names else ""
        else:
            hint = f"; did you mean {found}?" if found else ""
        self.add(f"{path}.{key}" if path else str(key), f"{owner} has no {key}{hint}")

    # --- the top ------------------------------------------------------------------------------------------------------

    def top(self) -> None:
        """Settings that are misspelt or of old versions; any other name may be a variable of the file."""
        text = re.sub(r"(?m)#.*$", "", self.cfg.text)
        for key, value in self.cfg.items():
            if key in SETTINGS or key in TOP:
                continue
            uses = len(re.findall(rf"\b{re.escape(key)}\b", text))
            if not uses or uses > len(re.findall(rf"(?m)^{re.escape(key)}\s*=[^=]", text)):
                continue  # read somewhere in the files, or not from them at all
            if key in OLD_SETTINGS and isinstance(value, (dict, list)):
                self.add(key, f"a setting of OpenMMLab 1.x that is ignored since; write {OLD_SETTINGS[key]}")
            elif near(key, SETTINGS - {"tta_pipeline"}, cutoff=0.84):
                self.unknown("", key, "the runner", SETTINGS)

    def fit(self, key: str, value: Any, place: Place) -> Place:
        """The place at the top with the type that the runner builds for this value."""
        default = place.default
        if key == "train_cfg" and isinstance(value, dict) and "type" not in value:
            by_epoch = value.get("by_epoch")
            if by_epoch is None:
                self.add(key, "names neither a type nor by_epoch")
                return UNTYPED
            default = "EpochBasedTrainLoop" if by_epoch else "IterBasedTrainLoop"
        if key == "data_preprocessor" and self.scope == "mmpretrain":
            model = self.cfg.get("model") or {}
            default = "ClsDataPreprocessor" if model.get("type") == "ImageClassifier" else None
        return Place(place.kinds, place.certain, default, place.beside)

    # --- dicts with a type --------------------------------------------------------------------------------------------

    def walk(
        self, value: Any, path: str, place: Place, scope: str, model: bool, parent: Optional[Callable] = None
    ) -> None:
        """Check a value that may be or hold dicts with types.

        ``model`` says that it is part of a model, ``parent`` is what the dict around it is built into.
        """
        if isinstance(value, (list, tuple)):
            for i, item in enumerate(value):
                self.walk(item, f"{path}[{i}]", place, scope, model, parent)
            return
        if not isinstance(value, dict):
            return
        scope = value.get("_scope_") or scope
        if "type" not in value and place.default is None:
            if place.certain and place.kinds and self.must_have_type(path) and not weights_of_losses(path, value):
                names = f" ({', '.join(map(str, list(value)[:4]))}, ...)" if value else ""
                self.add(path, f"a {self.kind(place)} needs a type, this dict{names} has none")
            self.inside(value, path, parent, scope, model)
            return
        name = value.get("type", place.default)
        target, arguments = self.resolve(name, value, place, scope)
        if target is None:
            self.missing(name, f"{path}.type", place, scope, model)
            if place.kinds == TRANSFORM.kinds:
                return
            target = object  # its parts cannot be judged
        else:
            self.classes.append(target)
            self.arguments(value, path, target, arguments, place, parent)
        self.inside(value, path, target, scope, model)

    def must_have_type(self, path: str) -> bool:
        """False for dicts of dicts, and deep in a model, where a class may know what it builds."""
        return (
            path.endswith("]") if path.startswith("param_scheduler") else not re.match(r"model.*\..*\.|.*_cfg$", path)
        )

    def kind(self, place: Place) -> str:
        return place.kinds[0].lower().replace("_", " ").rstrip("s").replace("util", "part of a model")

    def resolve(
        self, name: Any, value: dict, place: Place, scope: str
    ) -> Tuple[Optional[Callable], Optional[Arguments]]:
        """What the type stands for; where several registries may be meant, the first that takes all of the keys."""
        if place.kinds == ("mmcv.ops",):
            found = [getattr(import_module("mmcv.ops"), name, None)] if isinstance(name, str) else []
        elif place.certain:
            found = [find(name, place.kinds, scope)]
        else:
            found = [find(name, [kind], scope) for kind in place.kinds]
        known = [(target, arguments_of(target)) for target in found if target is not None]
        fitting = [
            (target, arguments)
            for target, arguments in known
            if arguments.open or set(value) <= {*arguments.named, *place.beside, "type", "_scope_"}
        ]
        return (fitting or known or [(None, None)])[0]

    def missing(self, name: Any, path: str, place: Place, scope: str, model: bool) -> None:
        if not isinstance(name, str):
            self.add(path, f"must be a name or a class, got {name!r}")
            return
        if place.kinds in ((), ("mmcv.ops",)):
            return
        names = names_of(place.kinds, scope)
        found = near(name.split(".")[-1], names, cutoff=0.6 if place.certain else 0.88)
        if not place.certain and (found is None or found.lower() == name.lower()):
            return  # may be no registry's name at all
        others = [] if found else sorted({other for other, _ in holders(name) if other not in (scope, "mmengine")})
        if found:
            hint = f"did you mean {found}?"
        elif others:
            hint = f"{others[0]} has one, write {others[0]}.{name}"
        else:
            hint = "is the module that registers it missing in custom_imports?"
        self.add(path, f"no {self.kind(place)} {name!r} in {scope}; {hint}")

    def arguments(
        self,
        value: dict,
        path: str,
        target: Callable,
        arguments: Arguments,
        place: Place,
        parent: Optional[Callable],
    ) -> None:
        name = getattr(target, "__name__", str(target))
        for key, given in value.items():
            if key in ("type", "_scope_") or key in place.beside:
                continue
            if key == "_delete_":
                self.add(f"{path}._delete_", "the base config has nothing here to delete")
            elif key not in arguments.named:
                if not arguments.open and parent is not object and not (parent and key in quoted_by(parent)):
                    self.unknown(path, key, name, arguments.named)
            elif isinstance(given, str) and not takes_text(arguments.named[key].annotation):
                wanted = inspect.formatannotation(arguments.named[key].annotation).replace("typing.", "")
                self.add(f"{path}.{key}", f"{name} takes {wanted} here, got {given!r}")

    def inside(self, value: dict, path: str, target: Optional[Callable], scope: str, model: bool) -> None:
        """Walk through the values of a dict, which ``target`` is built from, if it has a type."""
        if getattr(target, "__name__", "") in ("Albu", "Albumentations"):
            return  # types of another library, in every host
        for key, item in value.items():
            key = str(key)
            if key in ("type", "metainfo", "custom_keys"):
                continue
            here = f"{path}.{key}"
            if isinstance(item, dict) and "type" not in item and key in (
                ("train_cfg", "test_cfg") if model else ("data_prefix", "filter_cfg")
            ):  # fmt: skip
                self.loose.append((here, item))
            if model:
                place = place_in_model(key)
                if place is INITIALIZER and isinstance(item, dict) and "type" not in item:
                    continue
                if place.certain and target is None and not path.endswith("_cfg.rcnn"):
                    place = IN_MODEL if not isinstance(item, dict) or "type" not in item else place
            elif path in self.wrappers:
                place = Place(("OPTIMIZERS",)) if key == "optimizer" else UNTYPED
            else:
                place = ELSEWHERE.get(key, ANYWHERE)
                if place is DATASET and path.split(".")[0] not in TOP:
                    place = ANYWHERE
            # a dict without a type belongs to the class around it; what goes into **kwargs, who knows where
            named = "type" not in value or target in (None, object) or key in arguments_of(target).named
            self.walk(item, here, place, scope, model, target if named else object)

    # --- dicts that code reads from -----------------------------------------------------------------------------------

    def read_loose_dicts(self) -> None:
        """Check the keys of dicts without a type against all that the classes beside them name."""
        names: Set[str] = set()
        if self.loose:
            names = vocabulary([*self.classes, import_module("mmcv.ops.nms").batched_nms])
        for path, value in self.loose:
            self.read(value, path, names)
        self.classes, self.loose = [], []

    def read(self, value: Any, path: str, names: Set[str]) -> None:
        if isinstance(value, (list, tuple)):
            for i, item in enumerate(value):
                self.read(item, f"{path}[{i}]", names)
        if not isinstance(value, dict) or "type" in value:
            return
        for key, item in value.items():
            if str(key) not in names and key not in IDLE and key != "_scope_":
                found = near(str(key), names, cutoff=0.7)
                hint = f"; did you mean {found}?" if found else ""
                self.add(f"{path}.{key}", f"nothing reads {key}{hint}")
            else:
                self.read(item, f"{path}.{key}", names)

    # --- the runner's own dicts ---------------------------------------------------------------------------------------

    def loader(self, value: Any, path: str) -> None:
        for i, item in enumerate(value if isinstance(value, (list, tuple)) else [value]):
            here = f"{path}[{i}]" if isinstance(value, (list, tuple)) else path
            if not isinstance(item, dict):
                self.add(here, f"must be a dict, got {item!r}")
                continue
            for key in item:
                if key not in LOADER_KEYS and key not in ("_scope_", "type"):
                    self.unknown(here, key, "a data loader", LOADER_KEYS)
            if "dataset" not in item and "type" not in item:
                self.add(here, "has no dataset")
            self.walk(item.get("dataset"), f"{here}.dataset", DATASET, self.scope, False)
            for key in ("sampler", "batch_sampler"):
                self.walk(item.get(key), f"{here}.{key}", Place(("DATA_SAMPLERS",)), self.scope, False)
            for key in ("collate_fn", "worker_init_fn"):
                self.walk(item.get(key), f"{here}.{key}", Place(("FUNCTIONS",)), self.scope, False)
            for key, kind in (("batch_size", int), ("num_workers", int)):
                if key in item and not (isinstance(item[key], kind) and item[key] >= 0):
                    self.add(f"{here}.{key}", f"must be a whole number, got {item[key]!r}")

    def evaluator(self, value: Any, path: str) -> None:
        for i, item in enumerate(value if isinstance(value, (list, tuple)) else [value]):
            here = f"{path}[{i}]" if isinstance(value, (list, tuple)) else path
            if isinstance(item, dict) and "metrics" in item:
                default = Place(("EVALUATOR", "EVALUATORS"), default="Evaluator")
                self.walk(dict(item, metrics=None), here, default, self.scope, False)
                self.walk(item["metrics"], f"{here}.metrics", TOP[path], self.scope, False)
            else:
                self.walk(item, here, TOP[path], self.scope, False)

    def hooks(self, hooks: Dict[str, Any]) -> None:
        for name, hook in hooks.items():
            if isinstance(hook, dict) and "type" not in hook:
                hint = did_you_mean(name, DEFAULT_HOOKS)
                self.add(f"default_hooks.{name}", f"a hook needs a type, this one has none{hint}")
            elif name != "_scope_":
                self.walk(hook, f"default_hooks.{name}", HOOK, self.scope, False)

    def plain(self) -> None:
        """Dicts of the runner that have no type."""
        environment = self.cfg.get("env_cfg") or {}
        distributed = {*arguments_of(init_dist).named, "timeout", "init_backend", "world_size", "rank", "init_method"}
        self.known(environment, "env_cfg", {"cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"})
        self.known(environment.get("mp_cfg"), "env_cfg.mp_cfg", arguments_of(set_multi_processing).named)
        self.known(environment.get("dist_cfg"), "env_cfg.dist_cfg", distributed)
        self.known(self.cfg.get("randomness"), "randomness", arguments_of(Runner.set_randomness).named)
        self.known(self.cfg.get("auto_scale_lr"), "auto_scale_lr", {"enable", "base_batch_size"})
        for path, wrapper in self.wrappers.items():
            clip = wrapper.get("clip_grad") if isinstance(wrapper, dict) else None
            if isinstance(clip, dict) and clip.get("type", "norm") == "norm":
                self.known(clip, f"{path}.clip_grad", {*arguments_of(clip_grad_norm_).named, "type"})
        wrapper = self.cfg.get("optim_wrapper")
        if not isinstance(wrapper, dict):
            return
        constructor, name = DefaultOptimWrapperConstructor, wrapper.get("constructor")
        if name is not None:
            constructor = find(name, ("OPTIM_WRAPPER_CONSTRUCTORS",), self.scope)
            if constructor is None:
                place = Place(("OPTIM_WRAPPER_CONSTRUCTORS",))
                self.missing(name, "optim_wrapper.constructor", place, self.scope, False)
        paramwise = wrapper.get("paramwise_cfg")
        if constructor is not None and isinstance(paramwise, dict):
            optimizer = find((wrapper.get("optimizer") or {}).get("type"), ("OPTIMIZERS",), self.scope)
            hooks = [find(hook.get("type"), ("HOOKS",), self.scope) for hook in self.cfg.get("custom_hooks") or []]
            names = vocabulary([constructor, *(one for one in (optimizer, *hooks) if one)])
            self.read(
                {key: None if key == "custom_keys" else item for key, item in paramwise.items()},
                "optim_wrapper.paramwise_cfg",
                names,
            )
            for key, item in (paramwise.get("custom_keys") or {}).items():
                self.read(item, f"optim_wrapper.paramwise_cfg.custom_keys[{key!r}]", names)

    def known(self, value: Any, path: str, names: Iterable[str]) -> None:
        if isinstance(value, dict):
            for key in value:
                if key not in names and key != "_scope_":
                    self.unknown(path, key, path, names)


def wrappers_in(value: Any) -> Dict[str, Any]:
    """The optim wrapper, or those of several optimizers that a constructor makes into one, by their places."""
    if isinstance(value, dict) and value.get("constructor") and "optimizer" not in value:
        beside = {*TOP["optim_wrapper"].beside, "_scope_"}
        several = {f"optim_wrapper.{key}": one for key, one in value.items() if key not in beside}
        if several and all(isinstance(one, dict) and {"type", "optimizer"} & set(one) for one in several.values()):
            return several
    return {"optim_wrapper": value}


def weights_of_losses(path: str, value: dict) -> bool:
    """Whether a dict without a type is one of numbers by name, as in ``loss_weights=dict(rpn=1.0, roi=2.0)``."""
    numbers = value and all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in value.values())
    return bool(numbers) and "loss_weight" not in value and path.rpartition(".")[2].startswith("loss")


def check_keys(cfg: Config) -> List[Tuple[str, str]]:
    """Place and text of every key and type of a config that nothing takes."""
    return KeyCheck(cfg).run()
