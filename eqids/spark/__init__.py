"""Recommendations for tables of Apache Spark (`pip install 'eqids[spark]'`).

import eqids.spark

answers = eqids.spark.recommend(spark.table("plays"), "runs/plays", k=10)
"""

from eqids.spark.recommend_frame import recommend as recommend
