"""Channels and numbers of maps, from the backbone through the neck to the heads, against what these say they take."""

import traceback
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple

from torch import Tensor

from .probe import build, channels, empty_tensors, maps_of, run, tensors
from .registries import find

Fault = Tuple[str, str]
POWERS = (1, 2, 4, 8, 16, 32, 64, 128)  # a map whose side was rounded shows no stride that is one of these


def models_in(value: Any, path: str = "model") -> Iterator[Tuple[str, dict]]:
    """Every dict in a model that has a backbone."""
    if isinstance(value, dict):
        if isinstance(value.get("backbone"), dict) and "type" in value["backbone"]:
            yield path, value
        for key, item in value.items():
            if key != "backbone":
                yield from models_in(item, f"{path}.{key}")


def each(value: Any, path: str) -> Iterator[Tuple[str, dict]]:
    """A dict, or the dicts of a list, with their places."""
    if isinstance(value, dict):
        yield path, value
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            if isinstance(item, dict):
                yield f"{path}[{i}]", item


class ChannelCheck:
    """Follows the maps through one model; says nothing from where they cannot be known."""

    def __init__(self, model: dict, path: str, scope: str, blamed: Sequence[str]) -> None:
        self.model, self.path, self.scope = model, path, scope
        self.blamed = blamed  # places that have faults already
        self.faults: List[Fault] = []
        self.side = 0  # of the picture, pixels

    def run(self) -> List[Fault]:
        maps = self.backbone()
        giver = str(self.model["backbone"]["type"])
        for path, neck in each(self.model.get("neck"), f"{self.path}.neck"):
            if maps is not None:
                maps, giver = self.neck(neck, path, maps, giver), str(neck.get("type"))
        if maps is not None:
            if self.scope == "mmpretrain" and "head" in self.model:
                for path, head in each(self.model["head"], f"{self.path}.head"):
                    self.compare(head, path, channels(maps)[-1:], giver)
            for key in ("decode_head", "auxiliary_head"):
                for path, head in each(self.model.get(key), f"{self.path}.{key}"):
                    self.segmentation_head(head, path, maps, giver)
            for key in ("rpn_head", "bbox_head", "mask_head"):
                for path, head in each(self.model.get(key), f"{self.path}.{key}"):
                    self.dense_head(head, path, maps, giver)
            if isinstance(self.model.get("roi_head"), dict):
                self.roi_head(self.model["roi_head"], f"{self.path}.roi_head", maps, giver)
        return self.faults

    def attempt(self, function: Callable, cfg: dict, path: str) -> Any:
        """``function(cfg, scope)``, or None: with a fault if the part cannot be built, unless it has faults already."""
        if any(place == path or place.startswith((f"{path}.", f"{path}[")) for place in self.blamed):
            return None
        try:
            return function(cfg, self.scope)
        except Exception as error:
            text = (
                " ".join(str(error).split()) or traceback.extract_tb(error.__traceback__)[-1].line or "no reason given"
            )
            name = getattr(find(cfg.get("type"), ("MODELS",), self.scope), "__name__", cfg.get("type"))
            self.faults.append((path, f"{name} cannot be built: {type(error).__name__}: {text[:300]}"))
            return None

    def backbone(self) -> Optional[List[Tensor]]:
        found = self.attempt(maps_of, self.model["backbone"], f"{self.path}.backbone")
        if found is None:
            return None
        shapes, self.side = found
        return empty_tensors(shapes)

    def neck(self, cfg: dict, path: str, maps: List[Tensor], giver: str) -> Optional[List[Tensor]]:
        module = self.attempt(build, cfg, path)
        if module is None:
            return None
        try:
            return tensors(run(module, tuple(maps)))
        except Exception:  # an operator without shapes, or a wrong shape
            self.compare(cfg, path, channels(maps), giver)
            return None

    # --- heads --------------------------------------------------------------------------------------------------------

    def compare(self, cfg: dict, path: str, given: List[int], giver: str) -> None:
        """A fault if ``in_channels`` is not what is given: a list, or one number that all maps must have."""
        declared = cfg.get("in_channels")
        if isinstance(declared, int) and not isinstance(declared, bool):
            wrong = len(set(given)) == 1 and declared != given[0]
        else:
            wrong = isinstance(declared, (list, tuple)) and list(declared) != given
        if wrong:
            gives = given if isinstance(declared, (list, tuple)) else given[0]
            self.faults.append((f"{path}.in_channels", f"must be {gives}, what {giver} gives, got {declared}"))

    def segmentation_head(self, head: dict, path: str, maps: List[Tensor], giver: str) -> None:
        index, given = head.get("in_index", -1), channels(maps)
        several = isinstance(index, (list, tuple))
        wrong = [
            i for i in (index if several else [index]) if not isinstance(i, int) or not -len(maps) <= i < len(maps)
        ]
        if wrong:
            self.faults.append((f"{path}.in_index", f"{giver} gives {len(maps)} maps, got {index}"))
        elif isinstance(head.get("in_channels"), (list, tuple)) == several or not several:
            chosen = [given[i] for i in index] if several else [given[index]]
            if not several and isinstance(head.get("in_channels"), (list, tuple)):
                chosen = given
            self.compare(head, path, chosen, giver)

    def strides(self, declared: Any, path: str, maps: List[Tensor], giver: str, all_maps: bool) -> None:
        """Faults if there are strides without a map, or maps without a stride, or the maps have others."""
        if not isinstance(declared, (list, tuple)) or not all(isinstance(s, int) for s in declared):
            return
        if len(declared) > len(maps) or all_maps and len(declared) != len(maps):
            self.faults.append((path, f"must have one number for each of the {len(maps)} maps, got {list(declared)}"))
            return
        given = [self.side / one.shape[-1] if one.ndim == 4 else 0 for one in maps[: len(declared)]]
        known = [s in POWERS and t in POWERS for s, t in zip(declared, given, strict=True)]
        if any(sure and s != t for sure, s, t in zip(known, declared, given, strict=True)):
            true = [int(t) if sure else s for sure, s, t in zip(known, declared, given, strict=True)]
            self.faults.append((path, f"must be {true}, what {giver} gives, got {list(declared)}"))

    def dense_head(self, head: dict, path: str, maps: List[Tensor], giver: str) -> None:
        self.compare(head, path, channels(maps), giver)
        for key in ("anchor_generator", "prior_generator"):
            if isinstance(head.get(key), dict):
                self.strides(head[key].get("strides"), f"{path}.{key}.strides", maps, giver, all_maps=True)

    def roi_head(self, head: dict, path: str, maps: List[Tensor], giver: str) -> None:
        extracted = {}
        for kind in ("bbox", "mask"):
            for here, extractor in each(head.get(f"{kind}_roi_extractor"), f"{path}.{kind}_roi_extractor"):
                if extractor.get("type") not in ("SingleRoIExtractor", "mmdet.SingleRoIExtractor"):
                    continue
                used = extractor.get("featmap_strides")
                self.strides(used, f"{here}.featmap_strides", maps, giver, all_maps=False)
                out, given = extractor.get("out_channels"), set(channels(maps[: len(used or [])]))
                if len(given) == 1 and out not in given:
                    self.faults.append(
                        (f"{here}.out_channels", f"must be {given.pop()}, what {giver} gives, got {out}")
                    )
                extracted.setdefault(kind, extractor)
        if "bbox" not in extracted or head.get("shared_head"):
            return
        for kind in ("bbox", "mask"):
            extractor = extracted.get(kind, extracted["bbox"])
            size = (extractor.get("roi_layer") or {}).get("output_size")
            for here, one in each(head.get(f"{kind}_head"), f"{path}.{kind}_head"):
                self.compare(one, here, [extractor.get("out_channels")], "the RoI extractor")
                if kind == "bbox" and one.get("roi_feat_size", size) != size:
                    text = f"must be {size}, the RoI extractor's output_size, got {one['roi_feat_size']}"
                    self.faults.append((f"{here}.roi_feat_size", text))


def check_channels(model: Any, scope: str, blamed: Sequence[str] = ()) -> List[Fault]:
    """Place and text of what does not fit together in a model's config.

    Args:
        model: the config's ``model``.
        scope: its default scope.
        blamed: places with faults of another kind; what stands there is not built.
    """
    faults: List[Fault] = []
    for path, one in models_in(model):
        faults += ChannelCheck(one, path, one.get("_scope_") or scope, blamed).run()
    return faults
