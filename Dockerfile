# One static binary on an empty file system, run by an ordinary user.
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags='-s -w' -o /out/tidemark . && mkdir /out/state
RUN go run ./licences >/out/THIRD_PARTY_NOTICES

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build --chown=65532:65532 /out/state /var/lib/tidemark
COPY --from=build /src/LICENSE /LICENSE
COPY --from=build /out/THIRD_PARTY_NOTICES /THIRD_PARTY_NOTICES
COPY --from=build /out/tidemark /tidemark
USER 65532:65532

# The checkpoint has to outlive the container. It is written here by default, and a config.yaml is read from here.
WORKDIR /var/lib/tidemark
VOLUME /var/lib/tidemark

EXPOSE 8642

# Is the process alive? A hot standby is, and one that waits for a server, too: a restart would help neither.
HEALTHCHECK --interval=10s --timeout=6s --start-period=10s --retries=3 CMD ["/tidemark", "status", "--live"]

ENTRYPOINT ["/tidemark"]
CMD ["run"]
