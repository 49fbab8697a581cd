# Images of the services and of the beeline tool, each from nothing but a static binary.
#
#   docker build --target gateway .        compiles first, in the image named by GO_IMAGE; needs BuildKit
#   make images                            takes the binaries from bin/ (targets *-prebuilt); pulls nothing
#
# The prebuilt ones come first: the builder before BuildKit builds every stage above its target, and would pull
# GO_IMAGE for them.

ARG GO_IMAGE=golang:1.26

FROM scratch AS service
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.source="https://github.com/beeline-mqtt/beeline" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
USER 65532:65532

FROM service AS gateway-base
LABEL org.opencontainers.image.title="beeline gateway" \
      org.opencontainers.image.description="Ends MQTT and passes messages to other gateways"
# MQTT, gRPC between services, admin (health, metrics)
EXPOSE 1883 7946 9090
# Not ready is not unhealthy: a gateway without etcd serves the clients that it has, and should not be restarted.
# Those who wait for ready gateways ask "gateway ready".
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["/gateway", "health"]
ENTRYPOINT ["/gateway"]

FROM service AS session-base
LABEL org.opencontainers.image.title="beeline session" \
      org.opencontainers.image.description="Decides which gateway holds which client"
EXPOSE 7946 9090
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["/session", "health"]
ENTRYPOINT ["/session"]

FROM service AS router-base
LABEL org.opencontainers.image.title="beeline router" \
      org.opencontainers.image.description="Takes devices to the node that they belong to"
EXPOSE 1883 8083 8883 7946 8080 9090
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["/router", "health"]
ENTRYPOINT ["/router"]

FROM service AS beeline-base
LABEL org.opencontainers.image.title="beeline" \
      org.opencontainers.image.description="Makes certificates, asks and tells routers, publishes and subscribes"
ENTRYPOINT ["/beeline"]

FROM gateway-base AS gateway-prebuilt
COPY gateway /

FROM router-base AS router-prebuilt
COPY router /

FROM session-base AS session-prebuilt
COPY session /
COPY --chown=65532:65532 data /data

FROM beeline-base AS beeline-prebuilt
COPY beeline /
# An empty directory of the user's own. A new volume takes its owner from the image that mounts it first.
COPY --chown=65532:65532 data /data

# etcd as upstream's image has it, for machines that cannot pull that.
FROM scratch AS etcd-prebuilt
COPY etcd etcdctl /usr/local/bin/
USER 65532:65532
EXPOSE 2379 2380
CMD ["/usr/local/bin/etcd"]

FROM ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
COPY api/go.mod api/go.sum api/
RUN GOWORK=off go mod download
COPY . .
RUN GOWORK=off CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o /out/ \
      ./cmd/beeline ./services/gateway/cmd/gateway ./services/session/cmd/session ./services/router/cmd/router && mkdir /out/data

FROM gateway-base AS gateway
COPY --from=build /out/gateway /

FROM router-base AS router
COPY --from=build /out/router /

FROM session-base AS session
COPY --from=build /out/session /
COPY --from=build --chown=65532:65532 /out/data /data

FROM beeline-base AS beeline
COPY --from=build /out/beeline /
COPY --from=build --chown=65532:65532 /out/data /data
