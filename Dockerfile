# vin-datasette in a container: one process, no root, no write but to the volume /data.
#
#   docker build -t vin-datasette .
#   docker run --read-only --tmpfs /tmp --cap-drop ALL -v vin:/data -p 127.0.0.1:8001:8001 vin-datasette
#
# The base is fixed to one release of Python on one release of Debian. A tag can be pushed anew, a
# digest cannot: --build-arg BASE=docker.io/library/python:3.13.14-slim-bookworm@sha256:… fixes it
# for good, with the digest that `docker buildx imagetools inspect` shows for the tag. Any Debian
# with Python 3.10 or later will do, as a machine without Docker's registry needs it.
ARG BASE=docker.io/library/python:3.13.14-slim-bookworm

FROM ${BASE} AS build
# Debian's own Python comes without what makes a virtual environment.
RUN python3 -c 'import ensurepip' 2>/dev/null \
    || { apt-get update && apt-get install -y --no-install-recommends python3-venv; }
# Who reaches the registry of packages by a way of their own gives pip's configuration as the secret `pip`:
# it is there while this runs and in no layer.
COPY requirements.txt /src/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /opt/vin \
    && /opt/vin/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r /src/requirements.txt
# Of PyArrow: remote calls, S3, headers and tests. Nothing here uses them, and they are a third of it.
RUN cd /opt/vin/lib/python3*/site-packages/pyarrow && rm -rf include src tests ./*flight* ./*s3*
COPY pyproject.toml README.md LICENSE /src/
COPY vin_datasette /src/vin_datasette
# setuptools, which builds it, is among what is locked above.
RUN /opt/vin/bin/pip install --no-cache-dir --no-deps --no-index --no-build-isolation /src

FROM ${BASE}
RUN groupadd --gid 10001 vin \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin vin \
    && install -d -o vin -g vin -m 0750 /data
COPY --from=build /opt/vin /opt/vin
ENV PATH=/opt/vin/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/data
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8001
STOPSIGNAL SIGTERM
# Healthy is who can answer: the cache is open and read.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8001/-/vin/ready', timeout=4)"]
ENTRYPOINT ["vin-datasette"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8001", "--db", "/data/vin.db"]
