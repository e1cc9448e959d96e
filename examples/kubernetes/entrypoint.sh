#!/bin/bash
# What Spark asks of an image on Kubernetes: `executor` starts an executor and `driver` a driver, both told by the
# environment; anything else is run as it is.
set -euo pipefail

# A cluster may run it by a user id of its own, and Hadoop refuses a user who has no name.
if ! getent passwd "$(id -u)" > /dev/null && [ -w /etc/passwd ]; then
  echo "spark:x:$(id -u):$(id -g)::$PWD:/bin/bash" >> /etc/passwd
fi

case ${1:-} in
  executor)
    options=()
    while name=SPARK_JAVA_OPT_${#options[@]} && [ -v "$name" ]; do
      options+=("${!name}")
    done
    # Settings first, then Spark, then what was sent to the folder that the executor starts in.
    class_path=${SPARK_CONF_DIR:-$SPARK_HOME/conf}${HADOOP_CONF_DIR:+:$HADOOP_CONF_DIR}${SPARK_CLASSPATH:+:$SPARK_CLASSPATH}
    class_path+=":$SPARK_HOME/jars/*${SPARK_EXTRA_CLASSPATH:+:$SPARK_EXTRA_CLASSPATH}:$PWD"
    set -- "${JAVA_HOME:+$JAVA_HOME/bin/}java" "${options[@]}" \
      "-Xms$SPARK_EXECUTOR_MEMORY" "-Xmx$SPARK_EXECUTOR_MEMORY" -cp "$class_path" \
      org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend \
      --driver-url "$SPARK_DRIVER_URL" \
      --executor-id "$SPARK_EXECUTOR_ID" \
      --cores "$SPARK_EXECUTOR_CORES" \
      --app-id "$SPARK_APPLICATION_ID" \
      --hostname "$SPARK_EXECUTOR_POD_IP" \
      --resourceProfileId "$SPARK_RESOURCE_PROFILE_ID" \
      --podName "$SPARK_EXECUTOR_POD_NAME"
    ;;
  driver)
    shift
    set -- "$SPARK_HOME/bin/spark-submit" \
      --conf "spark.driver.bindAddress=$SPARK_DRIVER_BIND_ADDRESS" \
      --conf "spark.executorEnv.SPARK_DRIVER_POD_IP=$SPARK_DRIVER_BIND_ADDRESS" \
      --deploy-mode client \
      "$@"
    ;;
  *)
    exec "$@"
    ;;
esac

# As the first process of its container a JVM would leave dead orphans unburied.
if command -v tini > /dev/null; then
  set -- tini -s -- "$@"
fi
exec "$@"
