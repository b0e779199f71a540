"""Ray: clusters, pools of workers, sessions. The only home of ray."""
