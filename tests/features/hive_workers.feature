Feature: Workers of a hive
  A hive starts what the machine can bear, and ends only what it started.

  Scenario: A worker is started, seen, and stopped
    Given a hive with the model bee-tiny
    When WorkerSpawn is asked for with {"model": "bee-tiny", "worker_id": "w1", "options": {"context_length": 512}}
    Then it completes with "status" = "ready"
    And it tells worker_spawn_start, worker_spawn_memory, worker_spawn_health_check, worker_spawn_complete
    And WorkerProcessList answers "workers.0.worker_id" = "w1"
    And the worker answers a request
    When the worker's process is deleted
    Then it tells worker_proc_del_start, worker_proc_del_sigterm, worker_proc_del_ok
    And WorkerProcessList answers "workers" = []

  Scenario: A worker's log is read from its end
    Given a hive with the model bee-tiny
    And a worker "w1" of that model
    When WorkerLogs is asked for with {"worker_id": "w1", "tail": 1}
    Then it completes with "lines" = 1
    And it tells worker_logs_line

  Scenario Outline: What the machine cannot do is refused before anything is started
    Given a hive with the model bee-tiny
    When WorkerSpawn is asked for with <request>
    Then it fails as "<code>" and says "<words>"
    And WorkerProcessList answers "workers" = []

    Examples:
      | request                                     | code              | words         |
      | {"model": "nothing"}                        | model_not_found   | bee-tiny      |
      | {"model": "bee-tiny", "worker": "cuda"}     | device_not_found  | It has: cpu   |
      | {"model": "bee-tiny", "port": 80}           | port_out_of_range | worker ports  |
      | {"model": "bee-tiny", "engine": "nonsense"} | no_engine         | nonsense      |

  Scenario: A process that is no worker is left alone
    Given a hive
    When WorkerProcessDelete is asked for with {"pid": 1}
    Then it fails as "worker_not_found" and says "pid 1"

  Scenario: Of a batch each is started by itself
    Given a hive with the model bee-tiny
    When WorkerSpawnBatch is asked for with {"workers": [{"model": "nothing"}, {"model": "bee-tiny", "worker_id": "w1", "options": {"context_length": 512}}]}
    Then it completes with "started" = 1
    And its answer's "workers.0.code" is "model_not_found"
    And its answer's "workers.1.ok" is true
