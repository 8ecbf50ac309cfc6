# One image for heads, workers and drivers of a cluster. It holds no token and no credentials: nodes are given theirs.
#
#   docker build --tag sweeper:0.1.0 --build-arg COMMIT=$(git rev-parse --short=12 HEAD) .
#   docker run --rm --shm-size 4g sweeper:0.1.0 sweeper run synthetic --trials 20
#
# torch comes with CUDA, and runs on a CPU where a node has no GPU.
FROM python:3.11-slim

# wget: KubeRay asks nodes by it whether they live; rsync, ssh: Ray's launcher copies files, and the head starts nodes
RUN apt-get update \
    && apt-get install --yes --no-install-recommends openssh-client procps rsync wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 --shell /bin/bash sweeper \
    && install --directory --owner sweeper /opt/venv /opt/sweeper

USER sweeper
ENV HOME=/home/sweeper PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0 PIP_NO_CACHE_DIR=1
WORKDIR /opt/sweeper

# what changes seldom comes first: the packages, some gigabytes, are installed again only when their versions change
COPY --chown=sweeper constraints.txt ./
RUN python -m venv /opt/venv \
    && pip install --constraint constraints.txt torch torchvision 'ray[default,tune]'

COPY --chown=sweeper pyproject.toml README.md ./
COPY --chown=sweeper trainables trainables
COPY --chown=sweeper search_spaces search_spaces
COPY --chown=sweeper sweeper sweeper
COPY --chown=sweeper dashboards dashboards
ARG COMMIT=
RUN echo "$COMMIT" > trainables/commit.txt \
    && pip install --constraint constraints.txt '.[cluster,dashboard]'

WORKDIR /home/sweeper
CMD ["sweeper", "--help"]
