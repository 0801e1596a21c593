# vecserver on port 8000, its pools on 9000 to 9063: docs/container.md says how to build and run it.
#
# Build arguments: PYTHON, a tag of the official image; EXTRAS, what to install besides (docs/container.md).
ARG PYTHON=3.11-slim

FROM python:${PYTHON} AS build
ARG EXTRAS=box2d,toy-text,web
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /opt/vecserver
WORKDIR /src
COPY . .
RUN /opt/vecserver/bin/pip install --constraint constraints.txt ".[${EXTRAS}]"

FROM python:${PYTHON}
# tini is process 1: it collects the processes of pools whose host was killed
RUN apt-get update && apt-get install --yes --no-install-recommends tini && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 1000 --create-home vecserver \
    && install -d -m 755 -o vecserver -g vecserver /home/vecserver/tokens \
    && install -d -m 700 -o vecserver -g vecserver /home/vecserver/.local /home/vecserver/.local/state /home/vecserver/.local/state/vecserver
COPY --from=build /opt/vecserver /opt/vecserver
ENV PATH=/opt/vecserver/bin:$PATH PYTHONUNBUFFERED=1
USER 1000
WORKDIR /home/vecserver
EXPOSE 8000 9000-9063
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python3", "-c", "import http.client; c = http.client.HTTPConnection('127.0.0.1', 8000, timeout=2); c.request('GET', '/health'); assert c.getresponse().status == 200"]
ENTRYPOINT ["tini", "-g", "--", "vecserver", "serve", "--host", "0.0.0.0", "--port", "8000", "--data-ports", "9000-9063", "--print-token"]
CMD []
