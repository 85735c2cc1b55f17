"""The reviews of the Yelp Open Dataset: its review file, alone or inside the official tar."""

from dataset_prep.formats import JsonLines
from dataset_prep.source import Kind, Layout, Source

ABOUT = """\
The reviews of the Yelp Open Dataset, from https://business.yelp.com/data/resources/open-dataset/.
Give the download as it is (Yelp-JSON.zip, yelp_dataset.tar or .tgz), or the file
yelp_academic_dataset_review.json from it (plain, .gz or .zst).
Terms: the Yelp Dataset User Agreement, which is inside the download. It allows personal, educational and academic use
only, and no redistribution. Read it first."""

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
