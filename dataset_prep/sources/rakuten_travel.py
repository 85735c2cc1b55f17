"""Rakuten Travel user reviews, in Japanese: tab-separated files with or without a line of field names."""

import argparse

from dataset_prep.formats import Delimited
from dataset_prep.source import Kind, Layout, Source

# The names and the order of the fields come from the manual of the release. If your release differs, change them here,
# or name the five columns that are read on the command line.
USER, TIME, ITEM, RATING, TEXT = "投稿者ID", "投稿日時", "施設ID", "評価７（総合）", "ユーザ投稿本文"
FIELDS = (
    USER,
    TIME,
    ITEM,
    "プランID",
    "プランタイトル",
    "部屋種類",
    "部屋名前",
    "目的",
    "同伴者",
    "評価１（立地）",
    "評価２（部屋）",
    "評価３（食事）",
    "評価４（風呂）",
    "評価５（サービス）",
    "評価６（設備）",
    RATING,
    TEXT,
    "施設回答本文",
)
TIME_FORMATS = ("%Y-%m-%d %H:%M:%S", "%Y/%m/%d %H:%M:%S", "%Y-%m-%d", "%Y/%m/%d")

ABOUT = """\
Rakuten Travel reviews, from the Rakuten Data Release.
Give the unpacked review files, such as 01_Travel_Review.2019.tsv (plain, .gz or .zst). They are read as UTF-8
unless --encoding names another encoding, such as cp932 (Shift-JIS) or euc_jp. An overall rating of 0 means "not rated".
Apply for the data at https://rit.rakuten.com/data_release/ or https://www.nii.ac.jp/dsc/idr/rakuten/.
Terms: for researchers of universities and public institutes who sign Rakuten's agreement; no redistribution."""


def source(
    user: str = USER,
    item: str = ITEM,
    text: str = TEXT,
    time: str = TIME,
    rating: str | None = RATING,
    encoding: str | None = None,
) -> Source:
    """Returns the source for a release whose columns have the given names.

    Quotes in the files are plain characters. ``None`` for ``rating`` leaves every rating empty.
    """
    return Source(
        name="rakuten-travel",
        layouts=(Layout(user=user, item=item, text=text, time=time, rating=rating, time_formats=TIME_FORMATS),),
        format=Delimited("\t", quote="", names=FIELDS),
        encoding=encoding,
    )


SOURCE = source()


def _from_options(options: argparse.Namespace) -> Source:
    return source(options.user, options.item, options.text, options.time, options.rating, options.encoding)


KIND = Kind(
    name=SOURCE.name,
    about=ABOUT,
    example="--input 01_Travel_Review.2019.tsv --user-core 0 --item-core 0 --output dataset/travel",
    source=_from_options,
    columns={"user": USER, "item": ITEM, "text": TEXT, "time": TIME, "rating": RATING},
)
