{{- define "opensandbox.selector" -}}
app.kubernetes.io/name: opensandbox
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "opensandbox.labels" -}}
{{ include "opensandbox.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{- define "opensandbox.image" -}}
{{ required "image.repository is required: no image is published" .Values.image.repository }}:{{ .Values.image.tag }}
{{- end }}

{{- define "opensandbox.fromSecret" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef: { name: {{ .root.Values.existingSecret }}, key: {{ .key }} }
{{- end }}

{{- define "opensandbox.settings" -}}
{{- range $name, $value := . }}
- { name: {{ $name }}, value: {{ $value | quote }} }
{{- end }}
{{- end }}

{{- define "opensandbox.workerEnvironment" -}}
- { name: OPENSANDBOX_MODE, value: worker }
- { name: OPENSANDBOX_DATA_DIR, value: {{ .Values.workers.dataDirectory | quote }} }
- { name: OPENSANDBOX_FLEET_URL, value: "https://{{ .Release.Name }}-fleet:8443" }
- { name: OPENSANDBOX_FLEET_PORT, value: "8443" }
- name: POD_ADDRESS
  valueFrom:
    fieldRef: { fieldPath: status.podIP }
- { name: OPENSANDBOX_FLEET_ADDRESS, value: "https://$(POD_ADDRESS):8443" }
- { name: OPENSANDBOX_FLEET_LEASE_SECONDS, value: {{ .Values.workers.leaseSeconds | quote }} }
- { name: OPENSANDBOX_METRICS_HOST, value: 0.0.0.0 }
- { name: OPENSANDBOX_METRICS_PORT, value: {{ .Values.metrics.port | quote }} }
{{ include "opensandbox.fromSecret" (dict "root" . "name" "OPENSANDBOX_FLEET_TOKEN" "key" "fleet-token") }}
- { name: OPENSANDBOX_OBJECT_STORE, value: {{ required "objectStore.url is required: sandboxes leave the pod of a worker through the object store" .Values.objectStore.url | quote }} }
{{- if .Values.objectStore.encrypted }}
{{ include "opensandbox.fromSecret" (dict "root" . "name" "OPENSANDBOX_OBJECT_STORE_KEY" "key" "object-store-key") }}
{{- end }}
{{- include "opensandbox.settings" .Values.workers.env }}
{{- end }}
