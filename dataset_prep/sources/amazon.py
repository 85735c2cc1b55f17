"""Amazon product reviews: the dumps of 2014, 2018 and 2023, which are told apart by their fields."""

from dataset_prep.formats import JsonLines
from dataset_prep.source import MILLISECONDS, Kind, Layout, Source

ABOUT = """\
Amazon reviews, one JSON object a line (plain, .gz or .zst), one or more category files:
  2023  https://amazon-reviews-2023.github.io  raw review files, e.g. All_Beauty.jsonl.gz (items are parent_asin)
  2018  https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/  e.g. Musical_Instruments_5.json.gz
  2014  https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html  e.g. reviews_Musical_Instruments_5.json.gz
Terms: offered by the McAuley lab for research, without a formal licence. Cite McAuley et al. (SIGIR 2015) and He and
McAuley (WWW 2016) for 2014, Ni, Li and McAuley (EMNLP 2019) for 2018, Hou et al. (arXiv:2403.03952) for 2023."""

SOURCE = Source(
    name="amazon",
    layouts=(
        Layout(user="reviewerID", item="asin", text="reviewText", time="unixReviewTime", rating="overall"),
        Layout(
            user="user_id",
            item="parent_asin",
            text="text",
            time="timestamp",
            rating="rating",
            time_formats=(MILLISECONDS,),
        ),
    ),
    format=JsonLines(),
)

KIND = Kind(
    name=SOURCE.name,
    about=ABOUT,
    example="--input Musical_Instruments.jsonl.gz --output dataset/instruments",
    source=lambda options: SOURCE,
)
