"""Quality on live traffic: requests that are drawn are put to the other model as well, and both answers are graded."""
