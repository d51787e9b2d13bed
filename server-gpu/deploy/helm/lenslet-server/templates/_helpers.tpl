{{- define "lenslet.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{- define "lenslet.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "lenslet.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "lenslet.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "lenslet.selector" -}}
app.kubernetes.io/name: {{ include "lenslet.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "lenslet.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "lenslet.selector" . }}
{{- end }}

{{- define "lenslet.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "lenslet.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{- /* A pod that serves, or that works on jobs: `root`, `role` and `resources`. */ -}}
{{- define "lenslet.pod" -}}
{{- $ := .root -}}
{{- $values := .root.Values -}}
metadata:
  annotations:
    checksum/config: {{ $values.config | sha256sum }}
    {{- with $values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  labels:
    {{- include "lenslet.labels" $ | nindent 4 }}
    app.kubernetes.io/component: {{ .role }}
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "lenslet.serviceAccount" $ }}
  # The server asks nothing of Kubernetes.
  automountServiceAccountToken: false
  {{- with $values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $values.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  # What the server may take to end, and a little more.
  terminationGracePeriodSeconds: {{ add (int $values.drain.graceSeconds) (int $values.drain.limitSeconds) 10 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    seccompProfile:
      type: RuntimeDefault
  containers:
    - name: {{ .role }}
      image: "{{ $values.image.repository }}:{{ default $.Chart.AppVersion $values.image.tag }}"
      imagePullPolicy: {{ $values.image.pullPolicy }}
      {{- if eq .role "worker" }}
      args: [worker]
      {{- end }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      env:
        - name: LENSLET_CONFIG
          value: /etc/lenslet/lenslet.toml
        - name: LENSLET_MODEL
          value: {{ join "," $values.models.names | quote }}
        - name: LENSLET_MODELS
          value: {{ $values.models.mountPath | quote }}
        - name: LENSLET_LISTEN
          value: 0.0.0.0:8080
        - name: LENSLET_ENGINE
          value: {{ $values.engine.kind | quote }}
        - name: LENSLET_DEVICE
          value: {{ $values.engine.device | quote }}
        - name: LENSLET_DRAIN_GRACE_S
          value: {{ $values.drain.graceSeconds | quote }}
        - name: LENSLET_DRAIN_LIMIT_S
          value: {{ $values.drain.limitSeconds | quote }}
        {{- if and $values.grpc.enabled (eq .role "server") }}
        - name: LENSLET_GRPC_LISTEN
          value: 0.0.0.0:8081
        {{- end }}
        {{- if $values.apiKeys.existingSecret }}
        - name: LENSLET_API_KEYS_FILE
          value: /etc/lenslet-keys/api-keys
        {{- end }}
        {{- if $values.nats.existingSecret }}
        - name: LENSLET_NATS_URL
          valueFrom:
            secretKeyRef:
              name: {{ $values.nats.existingSecret }}
              key: url
        {{- else if $values.nats.url }}
        - name: LENSLET_NATS_URL
          value: {{ $values.nats.url | quote }}
        {{- end }}
        {{- with $values.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $values.envFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - name: http
          containerPort: 8080
        {{- if and $values.grpc.enabled (eq .role "server") }}
        - name: grpc
          containerPort: 8081
        {{- end }}
      # It answers at once, while models are still being loaded.
      livenessProbe:
        httpGet:
          path: /v2/health/live
          port: http
        initialDelaySeconds: 5
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      # Loaded, warmed up, and not about to end.
      readinessProbe:
        httpGet:
          path: /v2/health/ready
          port: http
        periodSeconds: 2
        timeoutSeconds: 5
        failureThreshold: 2
      {{- with .resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        - name: config
          mountPath: /etc/lenslet
          readOnly: true
        - name: models
          mountPath: {{ $values.models.mountPath }}
          readOnly: true
        {{- if $values.apiKeys.existingSecret }}
        - name: keys
          mountPath: /etc/lenslet-keys
          readOnly: true
        {{- end }}
        # Caches of drivers, and of TensorRT if it is told to keep them here.
        - name: tmp
          mountPath: /tmp
  volumes:
    - name: config
      configMap:
        name: {{ include "lenslet.fullname" $ }}
    - name: models
      {{- if $values.models.existingClaim }}
      persistentVolumeClaim:
        claimName: {{ $values.models.existingClaim }}
        readOnly: true
      {{- else if $values.models.volume }}
      {{- toYaml $values.models.volume | nindent 6 }}
      {{- else }}
      {{- fail "models: where are they? Set models.existingClaim or models.volume" }}
      {{- end }}
    {{- if $values.apiKeys.existingSecret }}
    - name: keys
      secret:
        secretName: {{ $values.apiKeys.existingSecret }}
        items:
          - key: {{ $values.apiKeys.key }}
            path: api-keys
    {{- end }}
    - name: tmp
      emptyDir: {}
  {{- if $values.topologySpread }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "lenslet.selector" $ | nindent 10 }}
          app.kubernetes.io/component: {{ .role }}
  {{- end }}
  {{- with $values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
