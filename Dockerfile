# The forwarder's image. `make image` builds it with docker, podman or buildah.
#
# Nothing is compiled as root, and neither compiler nor pip is shipped: the last stage is Debian's
# Python and one folder.

ARG DEBIAN=docker.io/library/debian:bookworm-slim
ARG GOLANG=docker.io/library/golang:1.26-bookworm

# The probe that NSM's manifests call: it shows its own certificate from the Workload API.
FROM ${GOLANG} AS probe
ARG GRPC_HEALTH_PROBE=v0.4.61
ENV CGO_ENABLED=0 GOPATH=/tmp/go GOCACHE=/tmp/go-build
USER 65534
RUN go install -trimpath -ldflags="-s -w" "github.com/grpc-ecosystem/grpc-health-probe@${GRPC_HEALTH_PROBE}"

FROM ${DEBIAN} AS build
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential ca-certificates python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 1000 --create-home build \
 && install -d -o build /opt/vwire
USER 1000
WORKDIR /home/build/vwire
COPY --chown=build pyproject.toml setup.py README.md LICENSE ./
COPY --chown=build forwarder forwarder
COPY --chown=build src_ext src_ext
# hadolint ignore=DL3013
RUN python3 -m venv /opt/vwire \
 && /opt/vwire/bin/pip install --no-cache-dir --no-compile . \
 && /opt/vwire/bin/pip uninstall -y pip setuptools \
 && python3 -m compileall -q -j 0 /opt/vwire/lib \
 && find /opt/vwire/lib -name '*.so' -exec strip --strip-unneeded {} +

FROM ${DEBIAN}
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=probe /tmp/go/bin/grpc-health-probe /bin/grpc-health-probe
COPY --from=build /opt/vwire /opt/vwire
ENV PATH=/opt/vwire/bin:$PATH PYTHONDONTWRITEBYTECODE=1
# Inside the container it is root with the capabilities that deploy/README.md lists, and no others.
# hadolint ignore=DL3002
USER 0
ENTRYPOINT ["vwire"]
CMD ["forwarder"]
