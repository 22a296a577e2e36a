# Two stages: the first installs, the second only runs. Everything comes as wheels, so no compiler is needed anywhere.
#
#   docker build -t tallygate .
#   docker run -p 8080:8080 -v ./gateway.yaml:/etc/tallygate/gateway.yaml:ro -e REDIS_URL=redis://… tallygate
#   docker run … tallygate worker --config /etc/tallygate/gateway.yaml
#
# The journal is in /var/lib/tallygate: give it a volume, and the same one to the container that follows this one.

FROM python:3.11-slim AS build
WORKDIR /build
COPY pyproject.toml constraints.txt README.md ./
COPY gateway gateway
COPY plugins plugins
RUN python -m venv /opt/tallygate \
    && /opt/tallygate/bin/pip install --no-cache-dir --only-binary :all: --constraint constraints.txt setuptools wheel \
    && /opt/tallygate/bin/pip install --no-cache-dir --constraint constraints.txt '.[compress]' \
    && /opt/tallygate/bin/pip uninstall --yes pip setuptools wheel

FROM python:3.11-slim
RUN useradd --system --uid 10001 --no-create-home tallygate \
    && install --directory --owner tallygate --group tallygate /var/lib/tallygate
COPY --from=build /opt/tallygate /opt/tallygate
COPY gateway.yaml /etc/tallygate/gateway.yaml
ENV PATH=/opt/tallygate/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /var/lib/tallygate
VOLUME /var/lib/tallygate
USER 10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9090/health', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["tallygate"]
CMD ["edge", "--config", "/etc/tallygate/gateway.yaml"]
