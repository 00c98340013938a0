"""The report, as a file."""

from __future__ import annotations

import itertools
import os
import re
from html.parser import HTMLParser

import pytest
from pages import make_report, make_report_manifest, make_scores

from nnunet_medseg.bundle.card import CARD_FIELDS
from nnunet_medseg.bundle.manifest import CurveFacts, EvaluationFacts, SplitFacts
from nnunet_medseg.report.verdict import verdict

VOID = {"meta", "link", "img", "br", "input"}


class Outline(HTMLParser):
    """Notes elements with their attributes, and fails where tags do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] not in {"style", "script"}:
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def outline(tmp_path, **changes) -> Outline:
    return Outline(make_report(tmp_path / "report.html", **changes))


# --- what it says ------------------------------------------------------------------------------


def test_the_first_line_says_that_the_page_stays_in_the_house(tmp_path):
    words = outline(tmp_path).words

    body = words[words.index("Stays in the house") :]
    assert body.startswith("Stays in the house. This page shows images of patients.")
    assert words.index("Stays in the house") < words.index("held-out patients the mean Dice")


def test_the_verdict_names_the_interval_the_weakest_label_and_the_weakest_patient(tmp_path):
    scores = make_scores(12)

    line = verdict(make_report_manifest(scores), scores)

    assert line == (
        "On 12 held-out patients the mean Dice is 0.86 (95 % interval 0.84 to 0.88); the weakest "
        "label is lesion with 0.71, the weakest patient case_0002 with 0.36."
    )


def test_one_patient_gives_no_interval():
    scores = make_scores(1)

    line = verdict(make_report_manifest(scores), scores)

    assert "On the one held-out patient the mean Dice is 0.86" in line
    assert "interval" not in line
    assert "weakest patient" not in line


def test_patients_that_were_not_measured_are_counted():
    scores = make_scores(3)
    evaluation = EvaluationFacts(mean_dice=0.5, dice={"liver": 0.5}, cases=3, of_cases=9)

    assert verdict(make_report_manifest(scores, evaluation=evaluation), scores).startswith(
        "On 3 of 9 held-out patients"
    )


def test_with_nothing_held_out_the_page_says_so_and_what_that_means(tmp_path):
    page = outline(
        tmp_path,
        cases=0,
        evaluation=EvaluationFacts(mean_dice=None, dice={}, cases=0, of_cases=0),
        split=SplitFacts(fold="all", train_cases=24, held_out_cases=0),
    )

    assert "Nothing was held out, so nobody knows how good this model is." in page.words
    assert "learnt by heart" in page.words
    assert "-f 0" in page.words
    assert not page.all("img")
    assert "All held-out patients" not in page.words


def test_a_name_that_is_no_text_is_shown_as_an_escape(tmp_path):
    words = outline(tmp_path, findings=[os.fsdecode(b"m\xfcller: empty")]).words

    assert r"m\udcfcller: empty" in words


def test_a_cross_validation_says_who_segmented_whom(tmp_path):
    words = outline(tmp_path, split=SplitFacts(fold="cv", train_cases=12, held_out_cases=12)).words

    assert "Where a fold segmented a patient that it was trained on (8 were tried)" in words
    assert "12 patients, each held out once" in words


@pytest.mark.parametrize("dice", [[None, 0.5], [None, None]])
def test_dice_on_patches_is_explained_only_where_it_is_shown(tmp_path, dice):
    curve = CurveFacts(
        training="training", minutes=[1, 2], loss=[1, 0], learning_rate=[0.1, 0], patch_dice=dice
    )

    page = outline(tmp_path, curves=[curve])

    assert ("a few patches of held-out patients" in page.words) == (dice[1] is not None)


def test_every_measure_of_the_manifest_and_of_the_cases_is_shown(tmp_path):
    words = outline(tmp_path).words

    for shown in (
        "0.910",
        "0.710",
        "0.600 to 0.900",
        "3.2",
        "75%",
        "0.50",
        "31",
        "20 to 40",
        "0.930",
    ):
        assert shown in words
    # A lesion that was missed, and one in neither map.
    assert "∞" in words
    assert "\N{EN DASH}" in words
    assert "a gap of +0.070" in words
    assert "medseg compare MODEL_A MODEL_B --dataset LABELLED" in words


# --- several images of a patient ---------------------------------------------------------------


def several_images(cases: int = 12, patients: int = 6) -> dict[str, object]:
    """What changes in a manifest when each patient has several images."""
    manifest = make_report_manifest(make_scores(cases))
    counts = {"patients": patients, "of_patients": patients}
    split = manifest.split.model_dump() | {"train_patients": 12, "held_out_patients": patients}
    return {
        "cases": cases,
        "split": SplitFacts.model_validate(split),
        "evaluation": manifest.evaluation.model_copy(update=counts),
    }


def verdict_on(cases: int, patients: int, *, of_cases: int | None = None) -> str:
    changes = several_images(cases, patients)
    if of_cases is not None:
        counts = {"of_cases": of_cases, "of_patients": patients + 1}
        changes["evaluation"] = changes["evaluation"].model_copy(update=counts)
    del changes["cases"]
    scores = make_scores(cases)
    return verdict(make_report_manifest(scores, **changes), scores)


def test_the_verdict_says_how_many_images_of_how_many_patients():
    assert verdict_on(12, 6) == (
        "On 12 images of 6 held-out patients the mean Dice is 0.86 (95 % interval 0.84 to 0.88); "
        "the weakest label is lesion with 0.71, the weakest image case_0002 with 0.36."
    )


def test_images_that_were_not_measured_are_counted_with_all_held_out_patients():
    assert verdict_on(3, 2, of_cases=9).startswith("On 3 of 9 images of 3 held-out patients the")


def test_several_images_of_one_patient_give_no_interval():
    line = verdict_on(2, 1)

    assert line.startswith("On 2 images of 1 held-out patient the mean Dice is 0.86, which one ")
    assert "interval" not in line


def test_the_page_speaks_of_images_where_patients_have_several(tmp_path):
    words = outline(tmp_path, **several_images()).words

    for shown in (
        "6 patients say little about the next one",
        "Trained on 24 images of 12 patients",
        "Held out 12 images of 6 patients",
        "The worst, the median and the best of the held-out images",
        "All held-out images, worst first",
        "Dice of each image, by label",
        "False an image",
        "A point is an image. From five images on",
        "Images in which only the label map, or only the model, has the label.",
        "From 2,000 draws of the patients, each with all of its images (BCa bootstrap).",
        "Each image was seen in",
        "On 8 of the images that it was trained on",
        "24 images of 12 trained, 12 images of 6 held out",
    ):
        assert shown in words
    for wrong in (
        "A point is a patient",
        "All held-out patients",
        "24 patients",
        "12 patients say",
    ):
        assert wrong not in words


def test_intervals_of_labels_need_two_patients(tmp_path):
    changes = several_images(4, 2)
    measures = changes["evaluation"].measures
    one = measures["lesion"].model_copy(update={"patients": 1})
    changes["evaluation"] = changes["evaluation"].model_copy(
        update={"measures": measures | {"lesion": one}}
    )

    words = outline(tmp_path, **changes).words

    # In the row of the liver.
    assert words.count("0.600 to 0.900") == 1


def test_a_page_of_one_image_a_patient_speaks_of_patients(tmp_path):
    words = outline(tmp_path).words

    for shown in (
        "Trained on 24 patients Held out 12 patients",
        "The worst, the median and the best of the held-out patients,",
        "All held-out patients, worst first",
        "Dice of each patient, by label Patient Mean Dice",
        "Over all held-out patients Label Dice 95 % interval",
        "False a patient",
        "A point is a patient. From five patients on, the box holds the middle half of them",
        "Patients in whom only the label map, or only the model, has the label.",
        "From 2,000 draws of the patients (BCa bootstrap). It knows no patient who was not there.",
        "Each patient was seen in 32 patches on average",
        "On 8 of the patients that it was trained on, its mean Dice is 0.930 (0.910 to 0.950)",
        "24 trained, 12 held out; images:",
    ):
        assert shown in words
    # Scans in the card, and those that came with the network, apart.
    assert "of the images" not in words


# --- what is shown -----------------------------------------------------------------------------


def test_cases_come_worst_first(tmp_path):
    text = make_report(tmp_path / "report.html")

    table = text[text.index("<caption>Dice of each patient") :]
    table = table[: table.index("</table>")]
    means = [
        float(cell) for cell in re.findall(r"<th scope=\"row\">.*?<td>([\d.]+)</td>", table, re.S)
    ]
    assert len(means) == 12
    assert means == sorted(means)


def test_the_card_has_marked_blanks_that_the_user_fills(tmp_path):
    blank = outline(tmp_path).words
    filled = outline(tmp_path, card={"licence": "CC BY 4.0"}).words

    assert blank.count("To be filled in by you") == len(CARD_FIELDS)
    assert filled.count("To be filled in by you") == len(CARD_FIELDS) - 1
    assert "Licence of the model CC BY 4.0" in filled
    assert "not a medical device" in blank.lower()


# --- what it is --------------------------------------------------------------------------------


def test_the_page_names_nothing_outside_itself(tmp_path):
    page = outline(tmp_path)

    sources = [attributes.get("src") for tag in ("img", "script") for attributes in page.all(tag)]
    assert all(source is None or source.startswith("data:image/png;base64,") for source in sources)
    links = [each["href"] for each in (*page.all("a"), *page.all("link"))]
    assert all(link.startswith(("#", "data:")) for link in links)
    policy = next(each for each in page.all("meta") if each.get("http-equiv"))
    assert policy["content"].startswith("default-src 'none'")


def test_links_of_the_page_lead_to_a_part_of_it_and_names_come_once(tmp_path):
    page = outline(tmp_path)

    names = [attributes["id"] for _, attributes in page.elements if attributes.get("id")]
    assert len(names) == len(set(names))
    assert {link["href"][1:] for link in page.all("a")} <= set(names)
    labelled = {each for _, a in page.elements if (each := a.get("aria-labelledby"))}
    assert labelled <= set(names)


def test_headings_pictures_and_tables_are_told_to_a_screen_reader(tmp_path):
    page = outline(tmp_path)

    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))
    assert all(len(image["alt"]) > 20 for image in page.all("img"))
    assert all(head.get("scope") in {"col", "row"} for head in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    charts = [each for each in page.all("div") if each.get("class") == "chart"]
    assert len(charts) == len(page.all("svg")) == 4
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)


@pytest.mark.parametrize("name", ['<script>alert("x")</script>', "a$b$c", "Ö & {{ 7*7 }} 肝"])
def test_names_of_the_user_are_shown_as_they_are(tmp_path, name):
    page = outline(tmp_path, name=name, findings=[f"warning  {name}: spacing"])

    assert name in page.words
    assert len(page.all("script")) == 1


def test_fifty_cases_stay_below_five_megabytes(tmp_path):
    make_report(tmp_path / "report.html", cases=50)

    assert (tmp_path / "report.html").stat().st_size < 2e6
