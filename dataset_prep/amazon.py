"""Amazon product reviews: the 2014 and 2018 dumps, and the 2023 one, told apart by their fields."""

from dataset_prep.formats import JsonLines
from dataset_prep.source import MILLISECONDS, Layout, Source

SOURCE = Source(
    name="amazon",
    about="""\
Amazon reviews, one JSON object a line (plain, .gz or .zst), one or more category files:
  2023  https://amazon-reviews-2023.github.io  raw review files, e.g. All_Beauty.jsonl.gz (items are parent_asin)
  2018  https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/  e.g. Musical_Instruments_5.json.gz
  2014  https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html  e.g. reviews_Musical_Instruments_5.json.gz
Terms: offered by the McAuley lab for research, without a formal licence. Cite McAuley et al. (SIGIR 2015) and He and
McAuley (WWW 2016) for 2014, Ni, Li and McAuley (EMNLP 2019) for 2018, Hou et al. (arXiv:2403.03952) for 2023.""",
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
