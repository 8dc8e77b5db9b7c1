{{- define "mokv.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The headless service: the nodes among themselves. */}}
{{- define "mokv.peers" -}}
{{- printf "%s-peers" (include "mokv.fullname" .) -}}
{{- end -}}

{{/* The domain of the pods' names. */}}
{{- define "mokv.peersDomain" -}}
{{- printf "%s.%s.svc.%s" (include "mokv.peers" .) .Release.Namespace .Values.clusterDomain -}}
{{- end -}}

{{/* Of the nodes' pods, and of nothing else. */}}
{{- define "mokv.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: node
{{- end -}}

{{/* Of everything but pods. */}}
{{- define "mokv.labels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "mokv.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "mokv.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "mokv.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/*
How many empty nodes form the cluster. More than half of them, so that of those that start there can't be two such groups;
three where there are as many, because a cluster of fewer has no fault to spare.
*/}}
{{- define "mokv.bootstrapExpect" -}}
{{- $replicas := int .Values.replicas -}}
{{- if .Values.bootstrapExpect -}}
{{- if gt (int .Values.bootstrapExpect) $replicas -}}
{{- fail (printf "bootstrapExpect is %d, but there are only %d replicas: they would wait for ever" (int .Values.bootstrapExpect) $replicas) -}}
{{- end -}}
{{- int .Values.bootstrapExpect -}}
{{- else -}}
{{- max (min 3 $replicas) (add (div $replicas 2) 1) -}}
{{- end -}}
{{- end -}}

{{/* The secret that has the gossip key; empty if gossip is not encrypted. */}}
{{- define "mokv.gossipSecret" -}}
{{- if .Values.gossipEncryption.existingSecret -}}
{{- .Values.gossipEncryption.existingSecret -}}
{{- else if .Values.gossipEncryption.generate -}}
{{- printf "%s-gossip" (include "mokv.fullname" .) -}}
{{- end -}}
{{- end -}}

{{/* A quantity of memory in bytes. */}}
{{- define "mokv.bytes" -}}
{{- $quantity := toString . -}}
{{- $number := regexFind "^[0-9.]+" $quantity | float64 -}}
{{- $unit := regexReplaceAll "^[0-9.]+" $quantity "" -}}
{{- $factors := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- if not (hasKey $factors $unit) -}}
{{- fail (printf "resources.limits.memory: %s is no quantity of memory" $quantity) -}}
{{- end -}}
{{- mulf $number (get $factors $unit) | int64 -}}
{{- end -}}

{{/* The server's settings but for those that differ from pod to pod, by name. */}}
{{- define "mokv.settings" -}}
data-dir: /var/lib/mokv/data
bind-addr: {{ printf "0.0.0.0:%d" (int .Values.serfPort) | quote }}
rpc-port: {{ .Values.rpcPort | toString | quote }}
metrics-port: {{ .Values.metricsPort | toString | quote }}
start-join-addrs: {{ printf "%s:%d" (include "mokv.peersDomain" .) (int .Values.serfPort) | quote }}
bootstrap-expect: {{ include "mokv.bootstrapExpect" . | quote }}
rejoin-after-leave: "true"
log-level: {{ .Values.logLevel | quote }}
{{- $limit := dig "limits" "memory" "" .Values.resources }}
{{- if and $limit .Values.memoryQuotaPercent }}
memory-quota: {{ div (mul (include "mokv.bytes" $limit | int64) .Values.memoryQuotaPercent) 100 | toString | quote }}
{{- end }}
{{- if include "mokv.gossipSecret" . }}
encrypt-key-file: /etc/mokv/gossip/key
{{- end }}
{{- range $name, $value := .Values.config }}
{{ $name }}: {{ $value | toString | quote }}
{{- end }}
{{- end -}}
