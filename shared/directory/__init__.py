"""Who is responsible for which customer: the model of directory.yaml, its check and publication, and the follower."""
