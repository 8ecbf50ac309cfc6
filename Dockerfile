# The image of a cluster's nodes: Ray with its job server, this package, and nothing secret.
#   docker build -t sweeper .
FROM python:3.11-slim

RUN apt-get update \
    && apt-get install -y --no-install-recommends openssh-client rsync wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 ray \
    && mkdir /etc/sweeper \
    && chown ray /etc/sweeper

WORKDIR /opt/sweeper
COPY pyproject.toml README.md constraints.txt ./
COPY trainables ./trainables
COPY search_spaces ./search_spaces
COPY sweeper ./sweeper
COPY dashboards ./dashboards
# torch brings its own CUDA: the image runs with and without GPUs
RUN pip install --no-cache-dir --constraint constraints.txt '.[cluster,dashboard]'

USER ray
WORKDIR /home/ray
ENV PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0
CMD ["sweeper", "--help"]
