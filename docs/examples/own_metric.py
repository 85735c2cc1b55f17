"""A metric of one's own: the share of users whose first recommended item is relevant."""

import numpy as np
from recbole.evaluator.collector import DataStruct
from recbole.evaluator.metrics import TopkMetric

from recbole_symcere.metrics import Metric, register
from recbole_symcere.quick_start import run_recbole_symcere


class First(TopkMetric):
    """1 for a user whose first recommended item is relevant, else 0; the same at each k."""

    def calculate_metric(self, dataobject: DataStruct) -> dict[str, float]:
        """Returns the means over users."""
        found: dict[str, float] = self.topk_result("first", self.metric_info(*self.used_info(dataobject)))
        return found

    def metric_info(self, pos_index: np.ndarray, pos_len: np.ndarray) -> np.ndarray:
        """Returns the values of each user, [n_users, k], from which recommended items are relevant [n_users, k]."""
        return pos_index[:, :1].repeat(pos_index.shape[1], axis=1).astype(float)


register(Metric("first", "First", function=First, table="accuracy"))


if __name__ == "__main__":
    result = run_recbole_symcere("Pop", "demo", config_dict={"metrics": ["Hit", "NDCG", "First"]})
    print(result["test_result"]["first@10"])
