"""What arguments are found where **kwargs are handed on, and where it cannot be told."""

from typing import List, Optional, Union

from torch import nn

from mmsema.engine.check.signature import arguments_of, takes_text, wants_text


class Base(nn.Module):
    def __init__(self, width, depth=3):
        super().__init__()


class HandsOn(Base):
    def __init__(self, rate, **kwargs):
        kwargs.setdefault("bias", True)
        if "old" in kwargs:
            kwargs.pop("old")
        super().__init__(**kwargs)


class Keeps(Base):
    def __init__(self, rate, **kwargs):
        super().__init__(4)
        self.settings = kwargs


class Between(Base):
    def __init__(self, unused):
        super().__init__(1)


class Skips(Between):
    def __init__(self, **kwargs):
        super(Between, self).__init__(**kwargs)


def test_arguments_are_followed_to_the_bases():
    found = arguments_of(HandsOn)
    assert set(found.named) == {"rate", "bias", "old", "width", "depth"} and not found.open


def test_kwargs_that_are_kept_may_be_anything():
    assert arguments_of(Keeps).open


def test_super_with_a_class_skips_to_what_comes_after_it():
    found = arguments_of(Skips)
    assert set(found.named) == {"width", "depth"} and not found.open


def test_functions_and_c_code():
    assert set(arguments_of(lambda a, b=1: None).named) == {"a", "b"}
    assert arguments_of(dict).open


def test_texts_are_refused_for_numbers_alone():
    assert not takes_text(int) and not takes_text(Optional[float])
    assert takes_text(Union[int, str]) and takes_text("int") and takes_text(bool)


def test_texts_are_wanted_by_default_or_annotation():
    def function(a: Union[str, dict], b: List[str], c: dict, d="tiny", e=None):
        pass

    named = arguments_of(function).named
    assert [name for name in named if wants_text(named[name])] == ["a", "d"] and not wants_text(None)
