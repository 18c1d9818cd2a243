"""One colour a method everywhere; labels that share one are told apart without it."""

from __future__ import annotations

from grpo_bench.palette import KNOWN, label_styles, method_colour

LABELS = {"flat": "flat", "flat-window": "mix", "flat-matched-updates": "flat", "mix": "mix", "flat-third": "flat"}


def test_a_label_has_its_methods_colour_and_sign() -> None:
    styles = label_styles(LABELS)
    assert list(styles) == list(LABELS)
    assert {label: style.colour for label, style in styles.items()} == {
        label: method_colour(method) for label, method in LABELS.items()
    }
    assert styles["flat"].marker == styles["flat-third"].marker != styles["mix"].marker


def test_labels_of_one_method_differ_by_dash_and_filling() -> None:
    styles = label_styles(LABELS)
    # the method's own name is the solid one, wherever it stands
    assert not styles["mix"].hollow and styles["mix"].dash == "solid"
    assert styles["flat-window"].hollow and styles["flat-window"].dash == "dash"
    assert [styles[label].dash for label in ("flat", "flat-matched-updates", "flat-third")] == ["solid", "dash", "dot"]
    assert len({(style.colour, style.dash) for style in styles.values()}) == len(LABELS)


def test_known_methods_have_signs_of_their_own() -> None:
    assert len({style.marker for style in label_styles({name: name for name in KNOWN}).values()}) == len(KNOWN)


def test_labels_named_unlike_their_method_start_solid() -> None:
    styles = label_styles({"flow-grpo": "flat", "dancegrpo": "flat"})
    assert (styles["flow-grpo"].dash, styles["dancegrpo"].dash) == ("solid", "dash")
