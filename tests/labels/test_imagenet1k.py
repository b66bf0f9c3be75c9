"""The names and groups of ImageNet's classes: each there once, in both languages, and the right ones."""

import csv
import re
import subprocess
import sys
from collections import Counter

import pytest

from eyespot.types import LabelEntry
from eyespot.vision.labels import load_labels, upwards
from tests.serving import ROOT

LABELS = load_labels("imagenet1k", [ROOT / "labels"])
ENTRIES = {entry.class_id: entry for entry in LABELS.entries["zh"]}
CHINESE = [*LABELS.names["zh"], *LABELS.group_names["zh"]]
with (ROOT / "labels" / "imagenet1k" / "names.csv").open(encoding="utf-8", newline="") as file:
    LOANWORDS = {row["zh"] for row in csv.DictReader(file) if row["loanword"] == "yes"}

NOT_ONLY_HAN = {"iPod", "T恤", "CD播放机", "福特T型车"}
# GB 2312 is Simplified Chinese, but has not every animal's name.
NOT_IN_GB_2312 = set("魟鱥鹀鸮鹟䴕鳽狆獴羱鲉")
# What foreign names are written with. A name is a mere transliteration if all but two of its characters are of these.
TRANSLITERATING = set(
    "阿埃艾爱安奥澳巴芭班邦贝本比彼宾波伯勃博布查达戴丹德迪蒂丁杜度多敦顿恩厄儿尔法菲费芬夫弗伏福富戈哥格葛根贡古果"
    "哈汉翰赫亨胡霍基吉加伽嘉杰捷淇喀卡凯坎康考柯科可克肯库夸拉莱兰朗劳乐勒雷里利丽莲廉列淋琳隆卢鲁路伦罗洛马玛迈麦曼芒"
    "梅美蒙米密摩莫墨默姆穆纳娜奈内尼妮柠檬努诺帕派潘庞佩彭蓬披皮普契乔切琼儒若撒萨塞赛桑瑟纱莎笼舍圣士史斯松苏索他塔泰"
    "坦唐特腾提托图娃瓦威韦维魏沃乌伍希夏谢辛休恤逊亚扬耶易艮尤约泽詹芝朱卓孜兹佐瑞"
)


def is_transliteration(name: str) -> bool:
    foreign = sum(character in TRANSLITERATING for character in name)
    return foreign >= 2 and len(name) - foreign <= 2


def test_ids_are_those_of_imagenet() -> None:
    known = ROOT.parent / "shared" / "labels" / "imagenet1k_wnids.csv"
    if not known.exists():
        pytest.skip("../shared/labels is not here")
    with known.open(newline="") as file:
        rows = [(int(row["class_id"]), row["wnid"]) for row in csv.DictReader(file)]
    assert [(row.class_id, row.wnid) for row in LABELS.classes] == rows
    assert [class_id for class_id, _ in rows] == list(range(1000))


def test_english_names_are_those_of_torchvision_but_for_capitals() -> None:
    from torchvision.models import ResNet18_Weights

    names = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    assert [name.casefold() for name in LABELS.names["en"]] == [name.casefold() for name in names]


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_no_name_is_empty_or_doubled(lang: str) -> None:
    names = [*LABELS.names[lang], *LABELS.group_names[lang]]  # type: ignore[index]
    assert all(name == name.strip() != "" for name in names)
    assert {name for name, times in Counter(names).items() if times > 1} == set()


def test_every_name_is_there_in_both_languages() -> None:
    assert all(row.zh for row in (*LABELS.classes, *LABELS.groups))
    assert all(row.gloss for row in LABELS.classes)


def test_chinese_names_are_simplified_chinese() -> None:
    han = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]+(、[\u4e00-\u9fff]+)*")
    assert {name for name in CHINESE if not han.fullmatch(name)} == NOT_ONLY_HAN
    assert {each for each in "".join(CHINESE) if not each.encode("gb2312", "ignore")} == NOT_IN_GB_2312


def test_a_transliteration_is_the_common_word() -> None:
    assert {name for name in CHINESE if is_transliteration(name)} == LOANWORDS - {"T恤"}
    assert set(LABELS.names["zh"]) >= LOANWORDS


@pytest.mark.parametrize(("name", "foreign"), [("罗宾", True), ("布尔布尔", True), ("知更鸟", False), ("西瓜", False)])
def test_what_a_transliteration_is(name: str, foreign: bool) -> None:
    assert is_transliteration(name) == foreign


def test_groups_are_a_tree_at_most_three_deep_around_all_classes() -> None:
    ids = {row.id for row in LABELS.groups}
    own = {row.group for row in LABELS.classes}
    parents = {row.id.rpartition("/")[0] for row in LABELS.groups} - {""}
    assert None not in own
    assert parents <= ids
    assert ids == own | parents
    assert max(len(list(upwards(group))) for group in ids) == 3
    assert 60 <= len(ids - parents) <= 85
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*(/[a-z]+(-[a-z]+)*)*", group) for group in ids)


@pytest.mark.needs("/usr/share/wordnet/data.noun")
def test_the_file_is_what_its_script_makes_of_wordnet() -> None:
    done = subprocess.run([sys.executable, ROOT / "labels" / "build.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("class_id", "en", "zh"),
    [
        (0, "tench", "丁鱥"),  # not 鲤鱼, a carp
        (15, "robin", "旅鸫"),  # the American one; not 蓝鹀, a bunting
        (16, "bulbul", "鹎"),  # not 夜莺, a nightingale
        (21, "kite", "鸢"),  # not 风筝, the toy
        (134, "crane", "鹤"),
        (517, "crane", "起重机"),
        (264, "Cardigan", "卡迪根柯基犬"),  # not 羊毛衫, a piece of clothing
        (474, "cardigan", "针织开衫"),
        (590, "hand-held computer", "掌上电脑"),  # not 手提电脑, a laptop
    ],
)
def test_names_that_published_lists_have_wrong(class_id: int, en: str, zh: str) -> None:
    found = ENTRIES[class_id]
    assert found.zh == zh
    assert found.en.startswith(en)


@pytest.mark.parametrize(
    ("label", "group", "others"),
    [
        ("coho", "animal/aquatic-animal/fish", "shark"),
        ("coral fungus", "plant/fungus", "animal"),
        ("sorrel", "animal/mammal/hoofed-animal", "plant"),
        ("sloth bear", "animal/mammal/bear", "sloth"),
        ("three-toed sloth", "animal/mammal", "bear"),
        ("pirate", "vehicle/sailing-boat", "person"),
        ("Cardigan", "animal/dog/herding-dog", "clothing"),
        ("crane bird", "animal/bird/wading-bird", "object"),
        ("kite", "animal/bird/bird-of-prey", "object"),
        ("drake", "animal/bird/waterfowl", "person"),
        ("monarch", "animal/insect/butterfly", "person"),
        ("killer whale", "animal/mammal/sea-mammal", "fish"),
        ("electric ray", "animal/aquatic-animal/shark", "object"),
        ("hen-of-the-woods", "plant/fungus", "bird"),
        ("buckeye", "plant", "insect"),
    ],
)
def test_groups_that_names_mislead_about(label: str, group: str, others: str) -> None:
    found = next(entry for entry in ENTRIES.values() if entry.en == label)
    assert ids(found)[0] == group
    assert others not in "/".join(ids(found)).split("/")


def ids(entry: LabelEntry) -> list[str]:
    return [group.id for group in entry.groups]
