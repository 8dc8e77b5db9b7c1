# One static binary and nothing else. Where images can't be pulled: tests/container/build.

ARG BUILDER=rust:1.95-alpine
ARG BASE=scratch
# BuildKit knows better.
ARG BUILDPLATFORM=linux/amd64

# On the machine that builds, for the machine that runs.
FROM --platform=$BUILDPLATFORM ${BUILDER} AS build
ARG TARGETARCH
# A Rust target; empty: as TARGETARCH says.
ARG TARGET=""
WORKDIR /src
COPY . .
RUN sh tests/container/compile "${TARGET:-${TARGETARCH:-amd64}}" /mokv

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=""
LABEL org.opencontainers.image.title="mökv" \
      org.opencontainers.image.description="A distributed, strongly consistent, in-memory key-value store" \
      org.opencontainers.image.source="https://github.com/dynamic-calm/mokv" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /mokv /mokv
# Nobody's: no name is needed, nor a file that has one.
USER 65532:65532
# gRPC, gossip, metrics.
EXPOSE 8400 8401/tcp 8401/udp 4000
ENTRYPOINT ["/mokv"]
