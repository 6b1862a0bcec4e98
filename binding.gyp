{
  # For tools that only know node-gyp: hands over to the one CMake build.
  "targets": [
    {
      "target_name": "openmoe",
      "type": "none",
      "actions": [
        {
          "action_name": "cmake",
          "inputs": ["CMakeLists.txt"],
          "outputs": ["<(PRODUCT_DIR)/always-delegate-to-cmake"],
          "action": ["node", "scripts/build-native.mjs"]
        }
      ]
    }
  ]
}
