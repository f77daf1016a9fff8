"""Quality on live traffic: shadow answers and their grades, drift, the regression set."""
