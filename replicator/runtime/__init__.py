"""What every process of the program needs: log, failpoints, tasks, programs of Postgres."""
