{{- define "aot.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "aot.image" -}}
{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag }}{{ end }}
{{- end }}

{{- define "aot.cudaImage" -}}
{{ .Values.image.repository }}{{ if .Values.image.cudaDigest }}@{{ .Values.image.cudaDigest }}{{ else }}:{{ .Values.image.cudaTag }}{{ end }}
{{- end }}

{{- /* The store's URL; with a CA of its own, that is where the server's certificate is checked. */}}
{{- define "aot.storeUrl" -}}
{{ .Values.redis.url }}{{ if .Values.redis.caSecret.name }}{{ ternary "&" "?" (contains "?" .Values.redis.url) }}ssl_ca_certs=/etc/aot/ca/ca.crt{{ end }}
{{- end }}

{{- /* The settings file: what the values say, with `settings` over it. */}}
{{- define "aot.settings" -}}
{{- $streams := list }}
{{- range $stream := .Values.streams }}
{{- $entry := omit $stream "urlSecret" }}
{{- if $stream.urlSecret }}{{ $entry = set (deepCopy $entry) "url_env" (include "aot.streamVariable" $stream) }}{{ end }}
{{- $streams = append $streams $entry }}
{{- end }}
{{- $model := dict "id" .Values.model.id "dtype" .Values.model.dtype "device" "cuda" }}
{{- if .Values.model.revision }}{{ $_ := set $model "revision" .Values.model.revision }}{{ end }}
{{- $ray := dict "address" "auto" "worker_gpus" 1 "workers" (max 1 .Values.compress.minReplicas) "max_workers" .Values.compress.maxReplicas "session_resources" (dict "decoding" 1) }}
{{- $base := dict
      "model" $model
      "store" (dict "url" (include "aot.storeUrl" .) "namespace" .Values.redis.namespace)
      "ray" $ray
      "live" (dict "networks" .Values.networks)
      "serve" (dict "host" "0.0.0.0" "port" .Values.serve.port "keys_file" "/etc/aot/keys/keys.json")
      "log" (dict "level" "info" "format" "json") }}
{{- if $streams }}{{ $_ := set $base "streams" $streams }}{{ end }}
{{- mergeOverwrite $base (deepCopy .Values.settings) | toYaml }}
{{- end }}

{{- define "aot.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "aot.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
{{- end }}

{{- define "aot.env" -}}
- name: AOT_STORE__PASSWORD_FILE
  value: /etc/aot/store/password
{{- with .Values.model.tokenSecret }}
{{- if .name }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ .name }}, key: {{ .key }}}
{{- end }}
{{- end }}
{{- end }}

{{- /* Of a stream's URL, by its name: a machine that is older than the list reads no other's. */}}
{{- define "aot.streamVariable" -}}
STREAM_{{ .name | sha256sum | trunc 12 | upper }}_URL
{{- end }}

{{- define "aot.streamUrls" -}}
{{- range $stream := .Values.streams }}
{{- with $stream.urlSecret }}
- name: {{ include "aot.streamVariable" $stream }}
  valueFrom:
    secretKeyRef: {name: {{ .name }}, key: {{ .key }}}
{{- end }}
{{- end }}
{{- end }}

{{- define "aot.mounts" -}}
- {name: settings, mountPath: /etc/aot/settings, readOnly: true}
- {name: store, mountPath: /etc/aot/store, readOnly: true}
- {name: cache, mountPath: /home/aot/.cache/huggingface}
- {name: data, mountPath: /home/aot/.local/share/aot-stream}
{{- if .Values.redis.caSecret.name }}
- {name: ca, mountPath: /etc/aot/ca, readOnly: true}
{{- end }}
{{- end }}

{{- define "aot.volumes" -}}
- name: settings
  configMap: {name: {{ .Release.Name }}-settings}
- name: store
  secret:
    secretName: {{ .Values.redis.passwordSecret.name }}
    items: [{key: {{ .Values.redis.passwordSecret.key }}, path: password}]
- name: cache
{{- if .Values.model.cacheClaim }}
  persistentVolumeClaim: {claimName: {{ .Values.model.cacheClaim }}}
{{- else }}
  emptyDir: {}
{{- end }}
- name: data
  emptyDir: {sizeLimit: {{ .Values.decode.spool }}}
{{- if .Values.redis.caSecret.name }}
- name: ca
  secret:
    secretName: {{ .Values.redis.caSecret.name }}
    items: [{key: {{ .Values.redis.caSecret.key }}, path: ca.crt}]
{{- end }}
{{- end }}

{{- define "aot.podBase" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{- range . }}{{ printf "\n- name: %s" . }}{{ end }}
{{- end }}
securityContext: {{- include "aot.podSecurity" . | nindent 2 }}
{{- end }}
