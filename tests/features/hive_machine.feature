Feature: The machine of a hive
  What there is, how it is, and why something is not.

  Scenario: The CPU is always a device
    Given a hive
    When DeviceList is asked for with {}
    Then it completes with "devices.0.id" = "cpu"
    And DeviceGet of {"device_id": 0, "device_type": "cpu"} answers "device.device_type" = "cpu"

  Scenario: A device that is not there is told with those that are
    Given a hive
    When DeviceGet is asked for with {"device_id": 7, "device_type": "cuda"}
    Then it fails as "device_not_found" and says "cpu"

  Scenario: Devices tell who uses them
    Given a hive with the model bee-tiny
    And a worker "w1" of that model
    When DeviceStats is asked for with {"device_id": 0, "device_type": "cpu"}
    Then it completes with "devices.0.workers" = ["w1"]

  Scenario: The load of the machine
    Given a hive
    When SystemStats is asked for with {}
    Then it completes
    And its answer's "ram_total_gb" is more than 0
    And its answer's "cpu_cores" is more than 0

  Scenario: Processes by their name
    Given a hive
    When ProcessList is asked for with {"filter": "python", "limit": 1}
    Then it completes
    And its answer's "total" is more than 0
    And its answer's "processes.0.memory_mb" is more than 0

  Scenario: The engines that apply has installed
    Given a hive
    When WorkerBinaryCatalogList is asked for with {}
    Then it completes with "binaries.0.engine" = "llama-cpp"
    And WorkerBinaryCatalogRefresh answers "binaries_found" = 1

  Scenario: A hive that is well
    Given a hive
    When HiveStatus is asked for with {}
    Then it completes with "models_total_gb" = 0.0
    When HiveCheck is asked for with {"hive_id": "h1"}
    Then it completes with "hive_id" = "h1"

  Scenario: What was meant for another hive is refused
    Given a hive
    When HiveCheck is asked for with {"hive_id": "h2"}
    Then it fails as "invalid_request" and says "This is hive 'h1'"
