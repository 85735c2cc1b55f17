"""The Yelp Open Dataset: its review file, alone or inside the official tar."""

from dataset_prep.formats import JsonLines
from dataset_prep.source import Kind, Layout, Source

ABOUT = """\
Yelp Open Dataset, https://business.yelp.com/data/resources/open-dataset/: yelp_dataset.tar (or .tgz) as it comes, or
yelp_academic_dataset_review.json from it (plain, .gz or .zst).
Terms: the Yelp Dataset User Agreement that is inside the download: personal, educational and academic use only, no
redistribution. Read it first."""

SOURCE = Source(
    name="yelp",
    layouts=(
        Layout(
            user="user_id",
            item="business_id",
            text="text",
            time="date",
            rating="stars",
            time_formats=("%Y-%m-%d %H:%M:%S", "%Y-%m-%d"),
        ),
    ),
    format=JsonLines(),
    member="yelp_academic_dataset_review.json",
)

KIND = Kind(
    name=SOURCE.name,
    about=ABOUT,
    example="--input yelp_dataset.tar --output dataset/yelp",
    source=lambda options: SOURCE,
)
