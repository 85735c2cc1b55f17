"""Amazon product reviews: the dumps of 2014, 2018 and 2023. The names of the fields tell the dumps apart."""

from dataset_prep.formats import JsonLines
from dataset_prep.source import MILLISECONDS, Kind, Layout, Source

ABOUT = """\
Amazon product reviews, in the dumps of 2014, 2018 and 2023.
Give one or more files of a category, with one JSON object on each line (plain, .gz or .zst):
  2023  https://amazon-reviews-2023.github.io  raw review files, such as All_Beauty.jsonl.gz (the item is parent_asin)
  2018  https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/  such as Musical_Instruments_5.json.gz
  2014  https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html  such as reviews_Musical_Instruments_5.json.gz
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
